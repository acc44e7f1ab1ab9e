{{- define "doggos.labels" -}}
app.kubernetes.io/name: doggos
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of what a monitoring stack must find, by labels of its own choice */}}
{{- define "doggos.monitoringLabels" -}}
{{ include "doggos.labels" . }}
{{- with .Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The label that KServe gives a part's pods: (list . "predictor") */}}
{{- define "doggos.selector" -}}
app: isvc.{{ (index . 0).Release.Name }}-{{ index . 1 }}
{{- end }}

{{/* An image of the chart: (list . "name" "digest") */}}
{{- define "doggos.image" -}}
{{- $ := index . 0 -}}
{{- $repository := printf "%s/%s" $.Values.image.registry (index . 1) -}}
{{- with index . 2 -}}
{{ $repository }}@{{ . }}
{{- else -}}
{{ $repository }}:{{ $.Values.image.tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "doggos.predictorImage" -}}
{{- $name := .Values.predictor.image.name | default (ternary "doggos-predictor" "doggos-predictor-cpu" (ne .Values.predictor.gpu.resource "")) -}}
{{- include "doggos.image" (list . $name .Values.predictor.image.digest) -}}
{{- end }}

{{- define "doggos.transformerImage" -}}
{{- include "doggos.image" (list . .Values.transformer.image.name .Values.transformer.image.digest) -}}
{{- end }}

{{- define "doggos.ports" -}}
- {name: http1, containerPort: 8080, protocol: TCP}
- {name: h2c, containerPort: 8081, protocol: TCP}
- {name: metrics, containerPort: 8082, protocol: TCP}
{{- end }}

{{/* Probes and the pause before SIGTERM: (list . "predictor" seconds-to-start) */}}
{{- define "doggos.lifecycle" -}}
{{- $ := index . 0 -}}
{{- $ready := printf "{path: /v2/models/%s/ready, port: http1}" $.Values.modelName -}}
startupProbe:
  httpGet: {{ $ready }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ div (add (index . 2) 4) 5 }}
readinessProbe:
  httpGet: {{ $ready }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /v2/health/live, port: http1}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
lifecycle:
  preStop:
    sleep: {seconds: {{ index $.Values.shutdown.preStopSeconds (index . 1) }}}
{{- end }}

{{/* Flags that both servers take. */}}
{{- define "doggos.args" -}}
- --model_name={{ .Values.modelName }}
- --request_timeout={{ .Values.requests.timeout }}
- --max_body_bytes={{ int64 .Values.requests.maxBodyBytes }}
- --max_pictures={{ .Values.requests.maxPictures }}
- --drain_seconds={{ .Values.shutdown.drainSeconds }}
- --grace_seconds={{ .Values.shutdown.graceSeconds }}
{{- if .Values.artefacts.allowUnmarked }}
- --allow_unmarked=on
{{- end }}
{{- end }}

{{/* What both parts' pods have in common: (list . "predictor") */}}
{{- define "doggos.pod" -}}
{{- $ := index . 0 -}}
{{- $part := index $.Values (index . 1) -}}
serviceAccountName: {{ $.Release.Name }}-{{ index . 1 }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml $.Values.security.pod | nindent 2 }}
terminationGracePeriodSeconds: {{ include "doggos.terminationGrace" . }}
{{- with $.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "doggos.selector" . | nindent 8 }}
{{- end }}

{{- define "doggos.terminationGrace" -}}
{{- $shutdown := (index . 0).Values.shutdown -}}
{{- add (index $shutdown.preStopSeconds (index . 1)) $shutdown.drainSeconds $shutdown.graceSeconds 10 -}}
{{- end }}

{{- define "doggos.strategy" -}}
type: RollingUpdate
{{- if eq . "surge" }}
rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- else }}
rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
{{- end }}
{{- end }}

{{/* Annotations of a part: (list . "predictor") */}}
{{- define "doggos.podAnnotations" -}}
{{- $ := index . 0 -}}
{{- if $.Values.monitoring.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "8082"
prometheus.io/path: /metrics
{{- end }}
{{- with (index $.Values (index . 1)).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The claim of a pvc:// URI, and the folder in it. */}}
{{- define "doggos.claim" -}}
{{- trimPrefix "pvc://" . | splitList "/" | first -}}
{{- end }}
{{- define "doggos.claimPath" -}}
{{- trimPrefix "pvc://" . | splitList "/" | rest | join "/" | trimSuffix "/" -}}
{{- end }}
