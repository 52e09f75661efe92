{{/* Names: the release's, with the chart's in it. 44 characters leave room for the longest suffix. */}}
{{- define "clustermesh.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{- define "clustermesh.apiserver" -}}{{ include "clustermesh.fullname" . }}-apiserver{{- end -}}
{{- define "clustermesh.agent" -}}{{ include "clustermesh.fullname" . }}-agent{{- end -}}
{{/* Whose tokens make operators; no pod runs as it. */}}
{{- define "clustermesh.operator" -}}{{ include "clustermesh.fullname" . }}-operator{{- end -}}
{{- define "clustermesh.tunnel" -}}{{ include "clustermesh.fullname" . }}-tunnel{{- end -}}
{{- define "clustermesh.relay" -}}{{ include "clustermesh.fullname" . }}-relay{{- end -}}
{{/* What no source can rebuild; made by the apiserver, and left by an uninstall. */}}
{{- define "clustermesh.state" -}}{{ include "clustermesh.fullname" . }}-state{{- end -}}
{{/* The CA's certificate, for agents; the apiserver fills it. */}}
{{- define "clustermesh.bundle" -}}{{ include "clustermesh.fullname" . }}-bundle{{- end -}}

{{/* Where agents find the apiserver, and whoever is not told otherwise. */}}
{{- define "clustermesh.endpoint" -}}
{{ include "clustermesh.apiserver" . }}.{{ .Release.Namespace }}.svc:{{ .Values.apiserver.service.port }}
{{- end -}}

{{/* Labels of every object. (list . "component") */}}
{{- define "clustermesh.labels" -}}
{{- $root := index . 0 -}}
{{ include "clustermesh.selector" . }}
app.kubernetes.io/part-of: clustermesh
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels that pods are selected by: they never change. Versions are no labels of pods, so that a new chart with the same
images changes no pod. (list . "component") */}}
{{- define "clustermesh.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All addresses: of both families where pods have both. */}}
{{- define "clustermesh.anyAddress" -}}
{{- if contains ":" (join " " .Values.cluster.podCIDRs) -}}[::]{{- else -}}0.0.0.0{{- end -}}
{{- end -}}

{{/* A container's image and when to pull it. (list . .Values.x.image) */}}
{{- define "clustermesh.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $root.Values.image.registry -}}{{- $name = printf "%s/%s" . $name -}}{{- end -}}
{{- if $image.digest -}}{{- $name = printf "%s@%s" $name $image.digest -}}
{{- else -}}{{- $name = printf "%s:%s" $name ($image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
image: {{ $name }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end -}}

{{/* Where pods run, as the values of a component say. (list . .Values.x) */}}
{{- define "clustermesh.scheduling" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
{{- with $values.priorityClassName -}}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Metadata of a component's pods. (list . .Values.x "component" "container") */}}
{{- define "clustermesh.podMetadata" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
labels:
  {{- include "clustermesh.selector" (list $root (index . 2)) | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ index . 3 }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Of a container that may nothing. */}}
{{- define "clustermesh.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}
