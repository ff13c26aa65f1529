{{- define "polyhead.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "polyhead.selector" -}}
app.kubernetes.io/name: polyhead
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "polyhead.labels" -}}
{{ include "polyhead.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Whether models lie at a URL; empty: they do not. */ -}}
{{- define "polyhead.fetches" -}}
{{- if contains "://" .Values.models.path -}}true{{- end -}}
{{- end -}}

{{- /* JSON Schema cannot compare two values. */ -}}
{{- define "polyhead.checkReplicas" -}}
{{- with .Values.autoscaling -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %v, more than autoscaling.maxReplicas, %v" .minReplicas .maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What probes ask: the kubelet's own gRPC probes speak no TLS. */ -}}
{{- define "polyhead.probe" -}}
{{- if .Values.tls.secretName -}}
exec: { command: [polyhead, health] }
{{- else -}}
grpc: { port: 50051 }
{{- end -}}
{{- end -}}
