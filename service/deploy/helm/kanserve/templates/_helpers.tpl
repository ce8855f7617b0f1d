{{- define "kanserve.chart" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of all objects. It leaves room for the suffix of the headless Service. */}}
{{- define "kanserve.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "kanserve.chart" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "kanserve.chart" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kanserve.headless" -}}
{{- printf "%s-headless" (include "kanserve.name" .) -}}
{{- end -}}

{{- define "kanserve.selector" -}}
app.kubernetes.io/name: {{ include "kanserve.chart" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "kanserve.labels" -}}
{{ include "kanserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kanserve
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kanserve.metadata" -}}
name: {{ include "kanserve.name" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "kanserve.labels" . | nindent 2 }}
{{- end -}}

{{- define "kanserve.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "kanserve.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "kanserve.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The port has the name and the protocol of the bytes in it. */}}
{{- define "kanserve.port" -}}
{{- if .Values.tls.secretName -}}https{{- else -}}h2c{{- end -}}
{{- end -}}
{{- define "kanserve.appProtocol" -}}
{{- if .Values.tls.secretName -}}https{{- else -}}kubernetes.io/h2c{{- end -}}
{{- end -}}

{{- define "kanserve.serverName" -}}
{{- .Values.tls.serverName | default (printf "%s.%s.svc" (include "kanserve.name" .) .Release.Namespace) -}}
{{- end -}}

{{/* DNS names of both Services, for a certificate. */}}
{{- define "kanserve.dnsNames" -}}
{{- $names := list (include "kanserve.serverName" .) -}}
{{- range list (include "kanserve.name" .) (include "kanserve.headless" .) -}}
{{- $names = concat $names (list . (printf "%s.%s" . $.Release.Namespace) (printf "%s.%s.svc" . $.Release.Namespace)) -}}
{{- end -}}
{{- toYaml (uniq $names) -}}
{{- end -}}

{{/* How an autoscaler adds and removes pods. */}}
{{- define "kanserve.behavior" -}}
{{- $down := dict "scaleDown" (dict "stabilizationWindowSeconds" .Values.autoscaling.scaleDownSeconds) -}}
{{- toYaml (mergeOverwrite $down (deepCopy .Values.autoscaling.behavior)) -}}
{{- end -}}

{{/* Time from the end of a pod to SIGKILL: a sleep of preStop, the three waits of the shutdown, and 5 s for the ports. */}}
{{- define "kanserve.terminationSeconds" -}}
{{- $settings := .Values.settings -}}
{{- $waits := addf $settings.drain_delay_seconds $settings.drain_reject_seconds $settings.drain_grace_seconds -}}
{{- add (ceil $waits) 5 (dig "preStop" "sleep" "seconds" 0 .Values.lifecycle) -}}
{{- end -}}

{{/* Text of a setting. Numbers of a values file are floats, which print large integers with an exponent. */}}
{{- define "kanserve.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "kanserve.probeType" -}}
{{- if ne .Values.probes.type "auto" -}}
{{- .Values.probes.type -}}
{{- else if .Values.tls.clientCA.secretName -}}metrics
{{- else if not .Values.tls.secretName -}}grpc
{{- else if eq (.Values.settings.transport | default "auto") "grpcio" -}}metrics
{{- else -}}https
{{- end -}}
{{- end -}}

{{/* One probe. Arguments: root, service (empty: readiness of all models), path. */}}
{{- define "kanserve.probe" -}}
{{- $type := include "kanserve.probeType" .root -}}
{{- if eq $type "grpc" -}}
grpc:
  port: 8001
  {{- if .service }}
  service: {{ .service }}
  {{- end }}
  {{- if .root.Values.tls.secretName }}
  mode: TLS
  {{- end }}
{{- else if eq $type "https" -}}
httpGet:
  path: {{ .path }}
  port: {{ include "kanserve.port" .root }}
  scheme: {{ if .root.Values.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: metrics
  scheme: HTTP
{{- end }}
timeoutSeconds: {{ .root.Values.probes.timeoutSeconds }}
{{- end -}}

{{/* Variables of a client of the TLS port. Arguments: root, url. */}}
{{- define "kanserve.clientEnv" -}}
{{- $tls := .root.Values.tls -}}
- name: KANSERVE_URL
  value: {{ printf "%s%s" (ternary "grpcs://" "" (ne $tls.secretName "")) .url }}
{{- if $tls.secretName }}
- name: KANSERVE_CA
  value: /credentials/tls/{{ $tls.caKey }}
- name: KANSERVE_SERVER_NAME
  value: {{ include "kanserve.serverName" .root }}
{{- end }}
{{- if $tls.clientCA.secretName }}
- name: KANSERVE_CERT
  value: /credentials/probe/tls.crt
- name: KANSERVE_KEY
  value: /credentials/probe/tls.key
{{- end }}
{{- end -}}

{{/* Combinations of values that a schema cannot state. */}}
{{- define "kanserve.validate" -}}
{{- $values := .Values -}}
{{- $kube := .Capabilities.KubeVersion.Version -}}
{{- if not $values.insecure -}}
{{- if not $values.tls.secretName -}}
{{- fail "tls.secretName: not set, expected the name of a Secret with the certificate. Set it, or insecure=true for a test" -}}
{{- end -}}
{{- if not (or $values.tokens.secretName $values.tls.clientCA.secretName) -}}
{{- fail "tokens.secretName: not set, expected the name of a Secret with the token file. Set it, or tls.clientCA.secretName, or insecure=true for a test" -}}
{{- end -}}
{{- end -}}
{{- if and $values.tls.clientCA.secretName (not $values.tls.secretName) -}}
{{- fail "tls.clientCA.secretName: set without tls.secretName, expected both. Set tls.secretName" -}}
{{- end -}}
{{- if and $values.tls.clientCA.secretName (ne (include "kanserve.probeType" .) "metrics") -}}
{{- fail (printf "probes.type: %s, expected metrics or auto, because the kubelet has no client certificate. Set probes.type=auto" $values.probes.type) -}}
{{- end -}}
{{- if and (eq $values.probes.type "grpc") $values.tls.secretName (semverCompare "<1.37.0-0" $kube) -}}
{{- fail (printf "probes.type: grpc with TLS on Kubernetes %s, expected 1.37 or later. Set probes.type=auto" $kube) -}}
{{- end -}}
{{- with $values.service.trafficDistribution -}}
{{- $since := ternary "1.31" "1.34" (eq . "PreferClose") -}}
{{- if semverCompare (printf "<%s.0-0" $since) $kube -}}
{{- fail (printf "service.trafficDistribution: %s on Kubernetes %s, expected %s or later. Leave it empty" . $kube $since) -}}
{{- end -}}
{{- end -}}
{{- $source := $values.models.source -}}
{{- if and (eq $source "pvc") (not $values.models.pvc.claimName) -}}
{{- fail "models.pvc.claimName: not set, expected the name of a PersistentVolumeClaim. Set it, or another models.source" -}}
{{- end -}}
{{- if and (eq $source "image") (not $values.models.image.reference) -}}
{{- fail "models.image.reference: not set, expected an OCI image. Set it, or another models.source" -}}
{{- end -}}
{{- if and (eq $source "image") (semverCompare "<1.33.0-0" $kube) -}}
{{- fail (printf "models.source: image on Kubernetes %s, expected 1.33 or later. Set another models.source" $kube) -}}
{{- end -}}
{{- if and (eq $source "configMap") (not $values.models.configMaps) -}}
{{- fail "models.configMaps: empty, expected one entry for each model version. Set it, or another models.source" -}}
{{- end -}}
{{- if and (eq $source "sync") (not $values.models.sync.remote) -}}
{{- fail "models.sync.remote: not set, expected a remote folder such as :s3:bucket/models. Set it, or another models.source" -}}
{{- end -}}
{{- $scaling := $values.autoscaling -}}
{{- if and (ne $scaling.type "none") (lt (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
{{- fail (printf "autoscaling.maxReplicas: %v, expected at least autoscaling.minReplicas. Set a larger value" $scaling.maxReplicas) -}}
{{- end -}}
{{- if and (eq $scaling.type "hpa") (not (or $scaling.hpa.cpuPercent $scaling.hpa.inflightRequests)) -}}
{{- fail "autoscaling.hpa: no metric, expected cpuPercent or inflightRequests. Set one of them" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts: empty, expected one host name or more. Set it" -}}
{{- end -}}
{{- if and (ne $values.gateway.route "none") (not $values.gateway.parentRefs) -}}
{{- fail "gateway.parentRefs: empty, expected the name of a Gateway. Set it" -}}
{{- end -}}
{{- range $name, $set := dict "tls.certificate.issuerRef" $values.tls.certificate.issuerRef "gateway.backendTLS" $values.gateway.backendTLS -}}
{{- if and $set (not $values.tls.secretName) -}}
{{- fail (printf "%s: set without tls.secretName, expected both. Set tls.secretName" $name) -}}
{{- end -}}
{{- end -}}
{{- $service := $values.service -}}
{{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}
{{- fail (printf "service.externalTrafficPolicy: %s with service.type ClusterIP, expected NodePort or LoadBalancer. Leave it empty" $service.externalTrafficPolicy) -}}
{{- end -}}
{{- if and (or $service.loadBalancerClass $service.loadBalancerSourceRanges) (ne $service.type "LoadBalancer") -}}
{{- fail (printf "service.loadBalancerClass, service.loadBalancerSourceRanges: set with service.type %s, expected LoadBalancer. Leave them empty" $service.type) -}}
{{- end -}}
{{- if not $values.image.repository -}}
{{- fail "image.repository: not set, expected the repository of the server image in your registry, such as registry.example/kanserve. Set it" -}}
{{- end -}}
{{- end -}}
