{{- define "heliograph.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "heliograph.release" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "heliograph.selector" -}}
{{ include "heliograph.release" . }}
app.kubernetes.io/component: replica
{{- end -}}

{{- define "heliograph.testSelector" -}}
{{ include "heliograph.release" . }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "heliograph.labels" -}}
{{ include "heliograph.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "heliograph.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "heliograph.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "heliograph.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "heliograph.secret" -}}
{{ default (include "heliograph.fullname" .) .Values.secrets.existingSecret }}
{{- end -}}

{{/* "true" if tokens are checked with the shared secret. */}}
{{- define "heliograph.signsWithSecret" -}}
{{- if and (eq .Values.auth.mode "jwt") (not .Values.auth.jwksUrl) (not .Values.auth.publicKey) -}}true{{- end -}}
{{- end -}}

{{/* A setting as text: lists and maps as JSON, and no number as 1e+06. */}}
{{- define "heliograph.setting" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* Settings that have a value of their own; in `settings` they would be there twice. */}}
{{- define "heliograph.ownSettings" -}}
HELIOGRAPH_REDIS__URL: redis.url
HELIOGRAPH_REDIS__SHARDS: redis.shards
HELIOGRAPH_REDIS__DURABLE_URL: redis.durableUrl
HELIOGRAPH_REDIS__ACK: redis.ack
HELIOGRAPH_REDIS__ACK_REPLICAS: redis.ackReplicas
HELIOGRAPH_AUTH__MODE: auth.mode
HELIOGRAPH_AUTH__OPEN_TO_NETWORK: auth.mode
HELIOGRAPH_AUTH__SECRET: secrets.existingSecret
HELIOGRAPH_AUTH__SECRET_FILE: secrets.existingSecret
HELIOGRAPH_AUTH__JWKS_URL: auth.jwksUrl
HELIOGRAPH_AUTH__PUBLIC_KEY_FILE: auth.publicKey
HELIOGRAPH_AUTH__AUDIENCE: auth.audience
HELIOGRAPH_AUTH__ISSUER: auth.issuer
HELIOGRAPH_API__KEY: secrets.existingSecret
HELIOGRAPH_API__KEY_FILE: secrets.existingSecret
HELIOGRAPH_NAMESPACES: namespaces
HELIOGRAPH_ALLOWED_ORIGINS: allowedOrigins
HELIOGRAPH_TRUSTED_PROXIES: trustedProxies
HELIOGRAPH_INTERNAL__HOST: listenAddress
HELIOGRAPH_INTERNAL__PORT: metrics
HELIOGRAPH_DRAIN__PER_SECOND: drain.perSecond
HELIOGRAPH_DRAIN__WINDOW_S: drain.windowSeconds
HELIOGRAPH_DRAIN__GRACE_S: drain.graceSeconds
HELIOGRAPH_DRAIN__DEADLINE_S: drain.deadlineSeconds
{{- end -}}

{{/* What a schema cannot say. Each message names the value and what to do. */}}
{{- define "heliograph.check" -}}
{{- include "heliograph.checkRedis" . -}}
{{- if and .Values.auth.jwksUrl .Values.auth.publicKey -}}
{{- fail "auth: set either auth.jwksUrl or auth.publicKey, not both" -}}
{{- end -}}
{{- if and (ne .Values.auth.mode "jwt") (or .Values.auth.jwksUrl .Values.auth.publicKey) -}}
{{- fail (printf "auth.mode %s checks no tokens: auth.jwksUrl and auth.publicKey are for mode jwt" .Values.auth.mode) -}}
{{- end -}}
{{- if and (eq .Values.auth.mode "hook") (not (hasKey .Values.settings "HELIOGRAPH_HOOKS__CONNECT")) -}}
{{- fail "auth.mode hook needs settings.HELIOGRAPH_HOOKS__CONNECT, the URL that says who a client is" -}}
{{- end -}}
{{- range $name, $value := include "heliograph.ownSettings" . | fromYaml -}}
{{- if hasKey $.Values.settings $name -}}
{{- fail (printf "settings.%s: the chart sets it already; its value here is %s" $name $value) -}}
{{- end -}}
{{- end -}}
{{- if le (float64 .Values.drain.deadlineSeconds) (addf .Values.drain.windowSeconds .Values.drain.graceSeconds) -}}
{{- fail (printf "drain.deadlineSeconds (%v) must be more than windowSeconds and graceSeconds together (%v), or the last clients are cut" .Values.drain.deadlineSeconds (addf .Values.drain.windowSeconds .Values.drain.graceSeconds)) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%v) is more than autoscaling.maxReplicas (%v)" .Values.autoscaling.minReplicas .Values.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.connectionsPerReplica) (or (not .Values.autoscaling.cpuPerReplica) (eq (toString .Values.autoscaling.cpuPerReplica) "0")) -}}
{{- fail "autoscaling: set connectionsPerReplica or cpuPerReplica, or there is nothing to scale by" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: name the host that clients connect to" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.parentRefs: name the Gateway that the HTTPRoute belongs to" -}}
{{- end -}}
{{- end -}}
