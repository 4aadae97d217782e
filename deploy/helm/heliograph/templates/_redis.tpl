{{/* The URLs that stand in the values, by the value that each is. */}}
{{- define "heliograph.redisUrls" -}}
{{- with .Values.redis.url }}
redis.url: {{ . | quote }}
{{- end }}
{{- range $index, $url := .Values.redis.shards }}
redis.shards[{{ $index }}]: {{ $url | quote }}
{{- end }}
{{- with .Values.redis.durableUrl }}
redis.durableUrl: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The ports that a URL names, as a YAML list: of the server, of each Sentinel, of each server of a cluster. */}}
{{- define "heliograph.redisPorts" -}}
{{- $standard := ternary 26379 6379 (contains "+sentinel://" .) -}}
{{- $hosts := regexFind "^[^/?]*" (regexReplaceAll "^[^:]*://([^/?]*@)?" . "") -}}
{{- range splitList "," $hosts }}
- {{ regexFind ":[0-9]+$" . | trimPrefix ":" | default $standard }}
{{- end }}
{{- end -}}

{{/* "true" if a rule of the network policy lets replicas connect to this port: {rules: …, port: …}. */}}
{{- define "heliograph.reaches" -}}
{{- range $rule := .rules -}}
{{- if not $rule.ports -}}true{{- end -}}
{{- range $rule.ports -}}
{{- if ne (default "TCP" .protocol) "TCP" -}}
{{- else if or (not .port) (kindIs "string" .port) -}}true
{{- else if and (ge $.port (int .port)) (le $.port (int (default .port .endPort))) -}}true
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "heliograph.checkRedis" -}}
{{- $redis := .Values.redis -}}
{{- $urls := include "heliograph.redisUrls" . | fromYaml -}}
{{- if not (or $urls $redis.existingSecret) -}}
{{- fail "redis: replicas share a Redis; set redis.url, redis.shards, or redis.existingSecret to a Secret that holds the URL" -}}
{{- end -}}
{{- if and $urls $redis.existingSecret -}}
{{- fail (printf "redis: %s is set, and redis.existingSecret too. Set either URLs, or the Secret that holds them, not both" (keys $urls | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $redis.url $redis.shards -}}
{{- fail "redis: set either redis.url or redis.shards, not both. redis.shards names every Redis of the replicas, the first one too" -}}
{{- end -}}
{{- if and $redis.durableUrl (not $redis.url) -}}
{{- fail "redis.durableUrl goes with redis.url: one Redis keeps messages, the other has the bus. Each of redis.shards keeps what it holds: let it have appendonly" -}}
{{- end -}}
{{- if and $redis.durableUrl (contains "+cluster://" (cat $redis.url $redis.durableUrl)) -}}
{{- fail "redis.durableUrl does not go with a cluster, which keeps what it holds: set only redis.url, and let its servers have appendonly" -}}
{{- end -}}
{{- range $redis.shards -}}
{{- if contains "+cluster://" . -}}
{{- fail "redis.shards: a cluster is no shard, as it spreads users and channels by itself: set only redis.url" -}}
{{- end -}}
{{- end -}}
{{- range $key := list "shardsKey" "durableUrlKey" -}}
{{- if and (get $redis $key) (not $redis.existingSecret) -}}
{{- fail (printf "redis.%s is a key of redis.existingSecret, which is not set" $key) -}}
{{- end -}}
{{- end -}}
{{- if and $redis.shardsKey $redis.durableUrlKey -}}
{{- fail "redis: set either redis.shardsKey or redis.durableUrlKey, not both. Each shard keeps what it holds: let it have appendonly" -}}
{{- end -}}
{{- if and (ne $redis.ack "replica") (ne (int $redis.ackReplicas) 1) -}}
{{- fail (printf "redis.ackReplicas (%v) is for redis.ack replica; it has no effect with %s" $redis.ackReplicas $redis.ack) -}}
{{- end -}}
{{- $withPassword := false -}}
{{- range $name, $url := $urls -}}
{{- if contains "$(REDIS_PASSWORD)" $url -}}{{- $withPassword = true -}}{{- end -}}
{{- $rest := replace "$(REDIS_PASSWORD)" "" $url -}}
{{- $credentials := regexFind "://.*@" $rest -}}
{{- if or (and $credentials (not (regexMatch "^://[^:@/?]*:@$" $credentials))) (regexMatch "password=[^&]" $rest) -}}
{{- fail (printf "%s holds a user or a password, which anyone who may read the Deployment would see: write $(REDIS_PASSWORD) in its place and name its Secret in redis.passwordSecret, or put the URL into a Secret and name that in redis.existingSecret" $name) -}}
{{- end -}}
{{- end -}}
{{- if and $withPassword (not $redis.passwordSecret) -}}
{{- fail "redis: a URL says $(REDIS_PASSWORD), and redis.passwordSecret does not say which Secret holds it" -}}
{{- end -}}
{{- if and $redis.passwordSecret (not $withPassword) -}}
{{- fail "redis.passwordSecret is set, and no URL above says $(REDIS_PASSWORD) where the password belongs: redis://user:$(REDIS_PASSWORD)@host. (A URL in redis.existingSecret holds its password itself.)" -}}
{{- end -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and $policy.enabled $policy.egress -}}
{{- range $name, $url := $urls -}}
{{- range include "heliograph.redisPorts" $url | fromYamlArray -}}
{{- if not (include "heliograph.reaches" (dict "rules" $policy.egress "port" (int .))) -}}
{{- fail (printf "networkPolicy.egress: no rule lets replicas connect to port %v, which %s names" . $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
