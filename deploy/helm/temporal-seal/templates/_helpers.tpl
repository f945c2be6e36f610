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
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
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

{{/* The names of the ConfigMaps that are mounted; empty where there is none. */}}
{{- define "temporal-seal.configMap" -}}
{{- default (include "temporal-seal.fullname" .) .Values.existingConfigMap -}}
{{- end -}}

{{- define "temporal-seal.policyConfigMap" -}}
{{- with .Values.policy -}}
{{- if .existingConfigMap -}}{{ .existingConfigMap }}
{{- else if .platform -}}{{ include "temporal-seal.fullname" $ }}-policy
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "temporal-seal.namespacesConfigMap" -}}
{{- with .Values.policy -}}
{{- if .existingNamespacesConfigMap -}}{{ .existingNamespacesConfigMap }}
{{- else if .namespaces -}}{{ include "temporal-seal.fullname" $ }}-namespaces
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The URL of the key store, from keyStore or from the config; empty where there is none. */}}
{{- define "temporal-seal.keyStoreURL" -}}
{{- $own := (default dict (default dict .Values.config).key_store).url -}}
{{- if and .Values.keyStore.url $own -}}
{{- fail "keyStore.url and config.key_store are both set: keep one" -}}
{{- end -}}
{{- if and .Values.keyStore.url .Values.existingConfigMap -}}
{{- fail "keyStore.url is set, and the config is in your ConfigMap: write key_store there" -}}
{{- end -}}
{{- if and .Values.keyStore.url (not .Values.keyStore.id) -}}
{{- fail "keyStore.id is empty: write what `temporal-seal keystore init` printed" -}}
{{- end -}}
{{- $url := default $own .Values.keyStore.url | default "" -}}
{{- if hasPrefix "sqlite:" $url -}}
{{- include "temporal-seal.sqlite" (dict "Values" .Values "file" (trimPrefix "sqlite:" $url)) -}}
{{- end -}}
{{- $url -}}
{{- end -}}

{{/* Fails unless SQLite serves: for one replica, with a file that outlives the pod. */}}
{{- define "temporal-seal.sqlite" -}}
{{- if eq .Values.mode "sidecar" -}}
{{- fail "a key store in SQLite is for one process, and the chart cannot see how many workers have a sidecar: use postgres:// or dynamodb://" -}}
{{- end -}}
{{- if or .Values.autoscaling.enabled (ne (int .Values.replicas) 1) -}}
{{- fail "a key store in SQLite is for one process: set autoscaling.enabled to false and replicas to 1, or use postgres:// or dynamodb://" -}}
{{- end -}}
{{- $kept := list -}}
{{- range .Values.extraVolumes -}}
{{- if .persistentVolumeClaim -}}{{- $kept = append $kept .name -}}{{- end -}}
{{- end -}}
{{- $found := false -}}
{{- range .Values.extraVolumeMounts -}}
{{- if and (has .name $kept) (hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) $.file) -}}{{- $found = true -}}{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "the key store %s is on no persistent volume: with the pod's file system, everything that was sealed by reference is lost; add a volume with a persistentVolumeClaim to extraVolumes, and mount its folder by extraVolumeMounts" .file) -}}
{{- end -}}
{{- end -}}

{{/* The config file: what the values say, and what the chart itself decides. */}}
{{- define "temporal-seal.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.keys -}}
{{- fail "config.keys is empty: name at least one key, for example {name: default, active: \"awskms://alias/temporal?region=eu-central-1\"}; a key file that a container makes for itself is lost with it" -}}
{{- end -}}
{{- $policy := dict -}}
{{- if include "temporal-seal.policyConfigMap" . -}}
{{- $_ := set $policy "file" "/etc/temporal-seal/policy/policy.rego" -}}
{{- end -}}
{{- if include "temporal-seal.namespacesConfigMap" . -}}
{{- $_ := set $policy "namespaces" "/etc/temporal-seal/namespaces" -}}
{{- end -}}
{{- if and $policy (not $config.policy) -}}
{{- $_ := set $config "policy" $policy -}}
{{- end -}}
{{- if not $config.admin -}}
{{- $_ := set $config "admin" "0.0.0.0:7334" -}}
{{- end -}}
{{- if and (eq .Values.mode "sidecar") (not (hasKey (default dict $config.drain) "after")) -}}
{{- $_ := set $config "drain" (merge (dict "after" "worker") (default dict $config.drain)) -}}
{{- end -}}
{{- if .Values.codecServer.enabled -}}
{{- if not (and $config.codec_server $config.codec_server.callers) -}}
{{- fail "codecServer.enabled is true, and config.codec_server.callers is missing: say who may read, for example config.codec_server.callers.jwt, and give config.codec_server.tls" -}}
{{- end -}}
{{- if not $config.codec_server.address -}}
{{- $_ := set $config.codec_server "address" (printf "0.0.0.0:%d" (int .Values.codecServer.port)) -}}
{{- end -}}
{{- else if $config.codec_server -}}
{{- fail "config.codec_server is set, and codecServer.enabled is false: set codecServer.enabled to true, or remove config.codec_server" -}}
{{- end -}}
{{- if and (include "temporal-seal.keyStoreURL" .) .Values.keyStore.url -}}
{{- $_ := set $config "key_store" (dict "url" .Values.keyStore.url "id" .Values.keyStore.id) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The port of an address: the text behind the last colon. */}}
{{- define "temporal-seal.portOf" -}}
{{- $port := regexFind ":[0-9]+$" . | trimPrefix ":" -}}
{{- if not $port -}}
{{- fail (printf "%q is not an address: write host:port" .) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{- define "temporal-seal.adminPort" -}}
{{- $admin := "" -}}
{{- if not .Values.existingConfigMap -}}{{- $admin = .Values.config.admin -}}{{- end -}}
{{- if hasPrefix "127." (default "" $admin) -}}
{{- fail (printf "config.admin is %s: the kubelet cannot probe a loopback address; write 0.0.0.0:7334" $admin) -}}
{{- end -}}
{{- include "temporal-seal.portOf" (default "0.0.0.0:7334" $admin) -}}
{{- end -}}

{{- define "temporal-seal.codecPort" -}}
{{- $address := "" -}}
{{- if not .Values.existingConfigMap -}}{{- $address = (default dict .Values.config.codec_server).address -}}{{- end -}}
{{- include "temporal-seal.portOf" (default (printf "0.0.0.0:%d" (int .Values.codecServer.port)) $address) -}}
{{- end -}}

{{/* The ports of listeners that other pods reach, as a list of {name, port, servicePort}. */}}
{{- define "temporal-seal.ports" -}}
{{- $ports := list -}}
{{- range .Values.ports -}}
{{- $ports = append $ports (dict "name" .name "port" (int .port)) -}}
{{- end -}}
{{- if and (not $ports) (not .Values.existingConfigMap) -}}
{{- range .Values.config.listeners -}}
{{- if not (regexMatch "^(127\\.|localhost:|\\[::1\\]:)" .address) -}}
{{- $name := regexReplaceAll "[^a-z0-9]+" (lower (default "grpc" .name)) "-" | trunc 15 | trimAll "-" -}}
{{- $ports = append $ports (dict "name" $name "port" (int (include "temporal-seal.portOf" .address))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $ports -}}
{{- fail (ternary "ports is empty: list the ports of the listeners in your ConfigMap, for example ports[0].name=grpc and ports[0].port=7333" "no entry of config.listeners is reachable from other pods: write an address such as 0.0.0.0:7333, or set mode to sidecar" (ne .Values.existingConfigMap "")) -}}
{{- end -}}
{{- $names := list -}}
{{- range $ports -}}
{{- if or (has .name $names) (has .name (list "admin" "codec")) -}}
{{- fail (printf "two ports have the name %q, of which the first 15 characters count: give other names in config.listeners, or set ports" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- $_ := set . "servicePort" (ternary (int $.Values.service.port) .port (eq (len $ports) 1)) -}}
{{- end -}}
{{- toYaml $ports -}}
{{- end -}}

{{/* The seconds of a duration such as 70s, 5m or 1m30s, rounded up. */}}
{{- define "temporal-seal.seconds" -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|us|µs|ns|h|m|s)" (toString .) -1 -}}
{{- $unit := get (dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001) (regexFind "[a-zµ]+$" .) -}}
{{- $seconds = addf $seconds (mulf (float64 (regexFind "^[0-9.]+" .)) (default 0.0 $unit)) -}}
{{- end -}}
{{- ceil $seconds | int -}}
{{- end -}}

{{/* How long Kubernetes has to wait: the drain, and 10 seconds for the last audit records and traces. */}}
{{- define "temporal-seal.grace" -}}
{{- if .Values.terminationGracePeriodSeconds -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- else if .Values.existingConfigMap -}}
{{- fail "terminationGracePeriodSeconds is required with existingConfigMap: drain.delay + drain.time of your config, and 10 seconds" -}}
{{- else -}}
{{- $drain := default dict .Values.config.drain -}}
{{- add (include "temporal-seal.seconds" (default "0s" $drain.delay)) (include "temporal-seal.seconds" (default "25s" $drain.time)) 10 -}}
{{- end -}}
{{- end -}}

{{- define "temporal-seal.args" -}}
args:
  - serve
  - --config=/etc/temporal-seal/config/config.yaml
  - --log-format=json
  {{- with .Values.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "temporal-seal.env" -}}
{{- if or .Values.tracing.endpoint .Values.env .Values.keyStore.existingSecret }}
env:
{{- with .Values.keyStore }}
{{- if .existingSecret }}
  - {name: PGPASSWORD, valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .passwordKey }}}}}
{{- end }}
{{- end }}
{{- if .Values.tracing.endpoint }}
  - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .Values.tracing.endpoint | quote }}}
  - {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .Values.tracing.protocol | quote }}}
  - {name: OTEL_TRACES_SAMPLER, value: {{ .Values.tracing.sampler | quote }}}
  - {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .Values.tracing.ratio | quote }}}
{{- end }}
{{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "temporal-seal.mounts" -}}
- {name: config, mountPath: /etc/temporal-seal/config, readOnly: true}
{{- if include "temporal-seal.policyConfigMap" . }}
- {name: policy, mountPath: /etc/temporal-seal/policy, readOnly: true}
{{- end }}
{{- if include "temporal-seal.namespacesConfigMap" . }}
- {name: namespaces, mountPath: /etc/temporal-seal/namespaces, readOnly: true}
{{- end }}
{{- range .Values.secrets }}
- {name: {{ .secret }}, mountPath: {{ .path }}, readOnly: true}
{{- end }}
{{- range .Values.configMaps }}
- {name: {{ .configMap }}, mountPath: {{ .path }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Whole folders, never single files: Kubernetes changes only those in a running pod, and the proxy applies changed policies
without a restart. */}}
{{- define "temporal-seal.volumes" -}}
- name: config
  configMap: {name: {{ include "temporal-seal.configMap" . }}}
{{- with include "temporal-seal.policyConfigMap" . }}
- name: policy
  configMap: {name: {{ . }}}
{{- end }}
{{- with include "temporal-seal.namespacesConfigMap" . }}
- name: namespaces
  configMap: {name: {{ . }}}
{{- end }}
{{- range .Values.secrets }}
- name: {{ .secret }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end }}
{{- range .Values.configMaps }}
- name: {{ .configMap }}
  configMap: {name: {{ .configMap }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "temporal-seal.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
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
