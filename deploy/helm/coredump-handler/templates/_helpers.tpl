{{- define "coredump-handler.labels" -}}
app.kubernetes.io/name: coredump-handler
app.kubernetes.io/instance: coredump-handler
app.kubernetes.io/version: {{ .Chart.AppVersion }}
{{- end }}

{{- define "coredump-handler.chart-labels" -}}
{{ include "coredump-handler.labels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "coredump-handler.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "coredump-handler.secret" -}}
{{- if or .Values.auth.accessKeyId .Values.auth.secretAccessKey .Values.auth.apiKey -}}
coredump-handler-credentials
{{- else -}}
{{ .Values.auth.existingSecret }}
{{- end -}}
{{- end }}

{{- define "coredump-handler.settings" -}}
{{- $paths := dict "host_dir" .Values.hostDir "spool_dir" .Values.spoolDir -}}
{{- $installer := dict "spool_gid" 65532 "sysctl_dir" "/host/sysctl" "daemon_set" "coredump-handler" "composer" .Values.composer -}}
{{- $s3 := dict "bucket" .Values.bucket.name "auth" .Values.auth.type -}}
{{- if eq .Values.auth.type "hmac" -}}
{{- $_ := set $s3 "access_key_id_file" "/etc/coredump-handler-store/access_key_id" -}}
{{- $_ := set $s3 "secret_access_key_file" "/etc/coredump-handler-store/secret_access_key" -}}
{{- else if eq .Values.auth.type "ibm_api_key" -}}
{{- $_ := set $s3 "api_key_file" "/etc/coredump-handler-store/api_key" -}}
{{- else if eq .Values.auth.type "ibm_trusted_profile" -}}
{{- $_ := set $s3 "trusted_profile" .Values.auth.trustedProfile -}}
{{- $_ := set $s3 "token_file" "/var/run/secrets/tokens/iam" -}}
{{- end -}}
{{- $store := dict "store" (dict "s3" (merge $s3 (omit .Values.bucket "name"))) -}}
installer.yaml: |
  {{- merge $installer $paths .Values.installer | toYaml | nindent 2 }}
uploader.yaml: |
  {{- merge (dict "listen" "[::]:9464") $paths $store .Values.uploader | toYaml | nindent 2 }}
{{- end }}
