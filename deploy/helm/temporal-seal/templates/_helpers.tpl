{{- define "temporal-seal.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "temporal-seal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "temporal-seal.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "temporal-seal.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "temporal-seal.selector" -}}
app.kubernetes.io/name: {{ include "temporal-seal.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "temporal-seal.labels" -}}
{{ include "temporal-seal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "temporal-seal.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "temporal-seal.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "temporal-seal.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The config file: what the values say, and what the chart itself decides. */}}
{{- define "temporal-seal.config" -}}
{{- if not .Values.config.keys -}}
{{- fail "config.keys is empty: name at least one key, for example {name: default, active: awskms://alias/temporal?region=eu-central-1}. A key file that a container made for itself would be lost with it" -}}
{{- end -}}
{{- $config := deepCopy .Values.config -}}
{{- $policy := dict -}}
{{- if .Values.policy.platform -}}
{{- $_ := set $policy "file" "/etc/temporal-seal/policy/policy.rego" -}}
{{- end -}}
{{- if .Values.policy.namespaces -}}
{{- $_ := set $policy "namespaces" "/etc/temporal-seal/namespaces" -}}
{{- end -}}
{{- if and $policy (not $config.policy) -}}
{{- $_ := set $config "policy" $policy -}}
{{- end -}}
{{- if not $config.admin -}}
{{- $_ := set $config "admin" "0.0.0.0:7334" -}}
{{- end -}}
{{- if not $config.drain -}}
{{- $drain := dict "delay" (printf "%ds" (int .Values.drain.delaySeconds)) "time" (printf "%ds" (int .Values.drain.timeSeconds)) -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $_ := set $drain "after" "worker" -}}
{{- end -}}
{{- $_ := set $config "drain" $drain -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* How long Kubernetes has to wait: the drain, and a little to flush traces. */}}
{{- define "temporal-seal.grace" -}}
{{- add (int .Values.drain.delaySeconds) (int .Values.drain.timeSeconds) 10 -}}
{{- end -}}

{{- define "temporal-seal.env" -}}
{{- if .Values.tracing.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .Values.tracing.endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .Values.tracing.protocol | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: {{ .Values.tracing.sampler | quote }}}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .Values.tracing.ratio | quote }}}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "temporal-seal.mounts" -}}
- {name: config, mountPath: /etc/temporal-seal/config, readOnly: true}
{{- if .Values.policy.platform }}
- {name: policy, mountPath: /etc/temporal-seal/policy, readOnly: true}
{{- end }}
{{- if .Values.policy.namespaces }}
- {name: namespaces, mountPath: /etc/temporal-seal/namespaces, readOnly: true}
{{- end }}
{{- range .Values.secrets }}
- {name: {{ .secret }}, mountPath: {{ .path }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Whole folders, never single files: only those change in a running pod, and policies are taken up without a restart. */}}
{{- define "temporal-seal.volumes" -}}
- name: config
  configMap: {name: {{ include "temporal-seal.fullname" . }}}
{{- if .Values.policy.platform }}
- name: policy
  configMap: {name: {{ include "temporal-seal.fullname" . }}-policy}
{{- end }}
{{- if .Values.policy.namespaces }}
- name: namespaces
  configMap: {name: {{ include "temporal-seal.fullname" . }}-namespaces}
{{- end }}
{{- range .Values.secrets }}
- name: {{ .secret }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "temporal-seal.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "temporal-seal.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 2
  failureThreshold: 30
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  failureThreshold: 6
{{- end -}}
