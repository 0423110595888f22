{{- define "gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "gateway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" }}
{{- else }}
{{- $name := include "gateway.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 57 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gateway.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "gateway.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository $tag }}
{{- end }}
{{- end }}

{{- define "gateway.adminSecret" -}}
{{- default (printf "%s-admin-token" (include "gateway.fullname" .)) .Values.adminToken.existingSecret }}
{{- end }}

{{- /* Labels of what is not a gateway, so that no service and no policy takes it for one. */ -}}
{{- define "gateway.helperLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "gateway.name" .root | trunc 50 | trimSuffix "-" }}-{{ .what }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- /* routes.yaml as it was given: looked at, never written anew. A round trip would turn `on` into `true`. */ -}}
{{- define "gateway.routes" -}}
{{- $read := fromYaml .Values.config.routes }}
{{- if hasKey $read "Error" }}{{ fail (printf "config.routes is not YAML: %s" $read.Error) }}{{ end }}
{{- if not $read.routes }}{{ fail "config.routes has no routes: give a routes.yaml, or name config.existingConfigMap" }}{{ end }}
{{- .Values.config.routes }}
{{- end }}

{{- /* The files of the configuration, as data of a ConfigMap. */ -}}
{{- define "gateway.files" -}}
routes.yaml: |2
{{ include "gateway.routes" . | indent 2 }}
{{- range $name, $text := .Values.config.policies }}
policies.{{ $name }}: |2
{{ $text | indent 2 }}
{{- end }}
{{- range $name, $text := .Values.config.accessPolicies }}
access.{{ $name }}: |2
{{ $text | indent 2 }}
{{- end }}
{{- end }}

{{- /* The same as a volume of the ConfigMap `.map`. */ -}}
{{- define "gateway.configVolume" -}}
{{- $config := .root.Values.config -}}
- name: config
  configMap:
    name: {{ .map }}
    {{- if $config.existingConfigMap }}
    {{- with $config.existingConfigMapItems }}
    items: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- else }}
    items:
      - {key: routes.yaml, path: routes.yaml}
      {{- range $file, $_ := $config.policies }}
      - {key: {{ printf "policies.%s" $file | quote }}, path: {{ printf "policies/%s" $file | quote }}}
      {{- end }}
      {{- range $file, $_ := $config.accessPolicies }}
      - {key: {{ printf "access.%s" $file | quote }}, path: {{ printf "policies/access/%s" $file | quote }}}
      {{- end }}
    {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gateway.mounts" -}}
# A folder, never a subPath: a subPath never sees a change.
- {name: config, mountPath: /etc/gateway, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Variables and their secrets. */ -}}
{{- define "gateway.env" -}}
- name: GATEWAY_ADMIN_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "gateway.adminSecret" . }}, key: {{ .Values.adminToken.key }}}
{{- with .Values.iamToken }}
{{- if .existingSecret }}
- name: IAM_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- range .Values.secretEnv }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}
{{- end }}
{{- range $variable, $value := .Values.otel }}
- {name: {{ $variable }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
