{{- define "doggos.predictorArgs" -}}
{{ include "doggos.args" . }}
- --max_batch={{ .Values.predictor.maxBatch }}
- --max_queue={{ .Values.predictor.maxQueue }}
{{- with .Values.predictor.gpu }}
{{- if and .resource (gt (int .count) 0) }}
- --device=cuda
{{- else if .resource }}
- --engine=torch
- --device=cpu
{{- end }}
{{- end }}
{{- with .Values.artefacts.clipPath }}
- --clip={{ clean (printf "/mnt/models/%s" .) }}
{{- end }}
{{- with .Values.artefacts.mlflow }}
{{- if .uri }}
{{- if not (or $.Values.predictor.gpu.resource $.Values.predictor.image.name) }}
{{- fail "artefacts.mlflow: a head from MLflow needs torch; set predictor.gpu.resource, or predictor.image.name=doggos-predictor to use torch on the CPU" }}
{{- end }}
- --mlflow_uri={{ .uri }}
- {{ ternary (printf "--mlflow_run=%s" .run) (printf "--mlflow_model=%s" .model) (ne .run "") }}
{{- end }}
{{- end }}
{{- range .Values.predictor.args }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "doggos.predictorEnvFrom" -}}
{{- with .Values.artefacts.mlflow.secret }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- with .Values.predictor.envFrom }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "doggos.predictorResources" -}}
{{- $resources := deepCopy .Values.predictor.resources -}}
{{- with .Values.predictor.gpu -}}
{{- if and .resource (gt (int .count) 0) -}}
{{- $_ := set $resources "limits" (merge (dict .resource (toString .count)) $resources.limits) -}}
{{- end -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{- define "doggos.transformerArgs" -}}
{{ include "doggos.args" . }}
- --predictor_host={{ .Release.Name }}-predictor-headless:8080
- --predictor_protocol=v2
- --index_dir=/mnt/index
- --start_timeout={{ .Values.predictor.startSeconds }}
- --max_decodes={{ .Values.transformer.maxDecodes }}
{{- with .Values.transformer.downloads }}
- --fetch_timeout={{ .timeout }}
- --max_picture_bytes={{ int64 .maxBytes }}
- --max_picture_pixels={{ int64 .maxPixels }}
{{- with .allowNetworks }}
- --allow_networks={{ join "," . }}
{{- end }}
{{- with .allowHosts }}
- --allow_hosts={{ join "," . }}
{{- end }}
{{- with .egressProxy }}
- --egress_proxy={{ . }}
{{- end }}
{{- end }}
{{- with .Values.artefacts.urlTemplate }}
- {{ printf "--url_template=%s" . | quote }}
{{- end }}
{{- with .Values.artefacts.imageRoot }}
- {{ printf "--image_root=%s" . | quote }}
{{- end }}
{{- if not .Values.transformer.page }}
- --page=off
{{- end }}
{{- range .Values.transformer.args }}
- {{ . | quote }}
{{- end }}
{{- end }}
