{{/*
The proxy in a worker's pod. The worker's chart has this chart as a dependency, with mode: sidecar, and writes in its
Deployment, where $seal is (index .Subcharts "temporal-seal"):

  spec:
    terminationGracePeriodSeconds: include "temporal-seal.grace" $seal
    securityContext: {fsGroup: 65532}     # makes the mounted Secrets readable for the proxy; not on OpenShift
    initContainers:
      include "temporal-seal.sidecar" $seal | nindent 6
    volumes:
      include "temporal-seal.volumes" $seal | nindent 6

deploy/helm/examples/sidecar is a whole chart that does this. The proxy is an init container that keeps running
(restartPolicy: Always, Kubernetes 1.29 and later): it serves before the worker starts, and ends after the worker.
*/}}
{{- define "temporal-seal.sidecar" -}}
- name: temporal-seal
  image: {{ include "temporal-seal.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  {{- include "temporal-seal.args" . | nindent 2 }}
  {{- with include "temporal-seal.env" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  ports:
    - {name: admin, containerPort: {{ include "temporal-seal.adminPort" . }}}
  {{- include "temporal-seal.probes" . | nindent 2 }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext: {{- include "temporal-seal.securityContext" . | nindent 4 }}
  volumeMounts: {{- include "temporal-seal.mounts" . | nindent 4 }}
{{- end -}}
