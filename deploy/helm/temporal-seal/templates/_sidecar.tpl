{{/*
The proxy in a worker's pod. A chart that has this one as a dependency, with mode: sidecar, writes in its Deployment:

  spec:
    terminationGracePeriodSeconds: {{ include "temporal-seal.grace" .Subcharts.temporal-seal }}
    initContainers:
      {{- include "temporal-seal.sidecar" (index .Subcharts "temporal-seal") | nindent 6 }}
    volumes:
      {{- include "temporal-seal.volumes" (index .Subcharts "temporal-seal") | nindent 6 }}

It is an init container that never ends (restartPolicy: Always, Kubernetes 1.29): it serves before the worker starts, and
is told to end after the worker has.
*/}}
{{- define "temporal-seal.sidecar" -}}
- name: temporal-seal
  image: {{ include "temporal-seal.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args: [serve, --config, /etc/temporal-seal/config/config.yaml, --log-format, json]
  {{- with include "temporal-seal.env" . }}
  env: {{- . | trim | nindent 4 }}
  {{- end }}
  ports:
    - {name: admin, containerPort: 7334}
  {{- include "temporal-seal.probes" . | nindent 2 }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext: {{- include "temporal-seal.securityContext" . | nindent 4 }}
  volumeMounts: {{- include "temporal-seal.mounts" . | nindent 4 }}
{{- end -}}
