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
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "gateway.adminSecret" -}}
{{- default (printf "%s-admin" (include "gateway.fullname" .)) .Values.adminToken.existingSecret }}
{{- end }}

{{- /* routes.yaml with what is the chart's to say. */ -}}
{{- define "gateway.routes" -}}
{{- $given := .Values.config.routes }}
{{- $routes := kindIs "string" $given | ternary (fromYaml (toString $given)) $given }}
{{- if hasKey $routes "Error" }}{{ fail (printf "config.routes is not YAML: %s" $routes.Error) }}{{ end }}
{{- if not $routes.routes }}{{ fail "config.routes has no routes: give a routes.yaml, or name config.existingConfigMap" }}{{ end }}
{{- $server := deepCopy (default dict $routes.server) }}
{{- $_ := set $server "listen" "0.0.0.0:8080" }}
{{- $_ := set $server "admin" "0.0.0.0:9901" }}
{{- $_ := set $server "drain_timeout" (printf "%ds" (int .Values.drainTimeoutSeconds)) }}
{{- if not $server.admin_token }}{{ $_ := set $server "admin_token" "${GATEWAY_ADMIN_TOKEN}" }}{{ end }}
{{- toYaml (merge (dict "server" $server) (omit $routes "server")) }}
{{- end }}
