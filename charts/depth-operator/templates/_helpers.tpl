{{/* Name of the release's objects: the release's name, with the chart's name where it is not part of it. */}}
{{- define "depth-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of the leader's Lease: set for the process and granted by the Role. */}}
{{- define "depth-operator.leaseName" -}}
depth-operator
{{- end -}}

{{/* Name of the metrics API's objects; short enough for every suffix below. */}}
{{- define "depth-operator.metricsApi" -}}
{{- printf "%s-metrics-api" (include "depth-operator.fullname" .) -}}
{{- end -}}

{{/* Secret with the metrics API's serving certificate. */}}
{{- define "depth-operator.tlsSecret" -}}
{{- .Values.metricsApi.tls.existingSecret | default (printf "%s-tls" (include "depth-operator.metricsApi" .)) -}}
{{- end -}}

{{/* Selector of one component; the arguments are the root context and the component's name. */}}
{{- define "depth-operator.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object of one component. */}}
{{- define "depth-operator.labels" -}}
{{- $root := index . 0 -}}
{{ include "depth-operator.selector" . }}
app.kubernetes.io/part-of: depth-serving
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* Reference of an image; the arguments are the root context and the image's values. */}}
{{- define "depth-operator.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What the pods of both components have in common; the arguments are the root context and the component's name. */}}
{{- define "depth-operator.podSpec" -}}
{{- $root := index . 0 -}}
automountServiceAccountToken: true
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
terminationGracePeriodSeconds: 30
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
affinity:
  {{- if $root.Values.affinity }}
  {{- toYaml $root.Values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "depth-operator.selector" . | nindent 14 }}
  {{- end }}
{{- end -}}

{{/* Security context of every container. */}}
{{- define "depth-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* "Cluster" where a role must cover all namespaces, empty where it covers the watched one. */}}
{{- define "depth-operator.rolePrefix" -}}
{{- if not .Values.watchNamespace -}}Cluster{{- end -}}
{{- end -}}
