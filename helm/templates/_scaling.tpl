{{/* Replicas of a part and what they follow: (list . "predictor") */}}
{{- define "doggos.scaling" -}}
{{- $ := index . 0 -}}
{{- $part := index . 1 -}}
{{- $scaling := $.Values.scaling -}}
minReplicas: {{ (index $scaling $part).minReplicas }}
{{- if eq $scaling.kind "none" }}
maxReplicas: {{ (index $scaling $part).minReplicas }}
{{- else }}
maxReplicas: {{ (index $scaling $part).maxReplicas }}
{{- end }}
{{- if eq $scaling.kind "hpa" }}
scaleMetric: cpu
scaleTarget: {{ index $scaling.hpa (printf "%sCpu" $part) }}
{{- else if eq $scaling.kind "keda" }}
autoScaling:
  metrics:
    {{- if eq $part "predictor" }}
    {{- include "doggos.kedaMetric" (list $ (include "doggos.rate" (list $ $part "request_seconds")) $scaling.keda.predictorConcurrency) | nindent 4 }}
    {{- include "doggos.kedaMetric" (list $ (include "doggos.rate" (list $ $part "busy_seconds")) $scaling.keda.predictorBusy) | nindent 4 }}
    {{- else }}
    {{- $own := printf "clamp_min(%s - %s, 0)" (include "doggos.rate" (list $ $part "request_seconds")) (include "doggos.rate" (list $ $part "predictor_seconds")) }}
    {{- include "doggos.kedaMetric" (list $ $own $scaling.keda.transformerConcurrency) | nindent 4 }}
    {{- end }}
  behavior:
    scaleDown: {stabilizationWindowSeconds: {{ $scaling.keda.scaleDownSeconds }}}
{{- end }}
{{- end }}

{{/* Seconds per second of a counter over all pods of a part; `max by (pod)` because some scrape configurations find a pod twice. */}}
{{- define "doggos.rate" -}}
{{- $ := index . 0 -}}
sum(max by (pod) (rate(doggos_{{ index . 2 }}_total{namespace="{{ $.Release.Namespace }}",pod=~"{{ $.Release.Name }}-{{ index . 1 }}-.+"}[{{ $.Values.scaling.keda.window }}])))
{{- end }}

{{- define "doggos.kedaMetric" -}}
- type: External
  external:
    metric:
      backend: prometheus
      serverAddress: {{ (index . 0).Values.scaling.keda.prometheus }}
      query: {{ index . 1 | quote }}
    target:
      type: Value
      value: {{ index . 2 | quote }}
{{- end }}
