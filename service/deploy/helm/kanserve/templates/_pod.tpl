{{- define "kanserve.serverEnv" -}}
- name: KANSERVE_REPOSITORY
  value: /models
- name: KANSERVE_HOST
  value: {{ .Values.listenAddress | quote }}
- name: KANSERVE_METRICS_HOST
  value: {{ .Values.listenAddress | quote }}
- name: KANSERVE_GRPC_PORT
  value: "8001"
- name: KANSERVE_METRICS_PORT
  value: "8002"
- name: KANSERVE_INSECURE
  value: {{ .Values.insecure | quote }}
{{- if .Values.tls.secretName }}
- name: KANSERVE_TLS_CERT
  value: /credentials/tls/tls.crt
- name: KANSERVE_TLS_KEY
  value: /credentials/tls/tls.key
{{- end }}
{{- if .Values.tls.clientCA.secretName }}
- name: KANSERVE_TLS_CLIENT_CA
  value: /credentials/client-ca/{{ .Values.tls.clientCA.key }}
{{- end }}
{{- if .Values.tokens.secretName }}
- name: KANSERVE_TOKENS
  value: /credentials/tokens/{{ .Values.tokens.key }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: KANSERVE_{{ upper $name }}
  value: {{ include "kanserve.text" $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kanserve.mounts" -}}
{{- $models := .Values.models -}}
- name: tmp
  mountPath: /tmp
- name: models
  mountPath: /models
  readOnly: true
  {{- if and (eq $models.source "pvc") $models.pvc.subPath }}
  subPath: {{ $models.pvc.subPath }}
  {{- end }}
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /credentials/tls
  readOnly: true
{{- end }}
{{- if .Values.tls.clientCA.secretName }}
- name: client-ca
  mountPath: /credentials/client-ca
  readOnly: true
{{- end }}
{{- if .Values.tokens.secretName }}
- name: tokens
  mountPath: /credentials/tokens
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: name of the volume, name of the Secret. The server rejects files that all users can read. */}}
{{- define "kanserve.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
{{- end -}}

{{- define "kanserve.volumes" -}}
{{- $models := .Values.models -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- if eq $models.source "pvc" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ $models.pvc.claimName }}
    readOnly: true
{{- else if eq $models.source "image" }}
- name: models
  image:
    reference: {{ $models.image.reference }}
    pullPolicy: {{ $models.image.pullPolicy }}
{{- else if eq $models.source "configMap" }}
# By paths below the volume, so that the files of a version are regular files: the server rejects links among them.
- name: models
  projected:
    sources:
      {{- range $entry := $models.configMaps }}
      - configMap:
          name: {{ $entry.name }}
          items:
            {{- range $entry.files }}
            - key: {{ . }}
              path: {{ $entry.model }}/{{ $entry.version }}/{{ . }}
            {{- end }}
      {{- end }}
{{- else }}
- name: models
  emptyDir:
    sizeLimit: {{ $models.sync.sizeLimit }}
- name: scripts
  configMap:
    name: {{ include "kanserve.name" . }}-sync
{{- end }}
{{- if .Values.tls.secretName }}
{{ include "kanserve.secretVolume" (dict "name" "tls" "secret" .Values.tls.secretName) }}
{{- end }}
{{- if .Values.tls.clientCA.secretName }}
{{ include "kanserve.secretVolume" (dict "name" "client-ca" "secret" .Values.tls.clientCA.secretName) }}
{{- end }}
{{- if .Values.tokens.secretName }}
{{ include "kanserve.secretVolume" (dict "name" "tokens" "secret" .Values.tokens.secretName) }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Container that copies a remote repository. Arguments: root, mode (once or loop). */}}
{{- define "kanserve.sync" -}}
{{- $sync := .root.Values.models.sync -}}
image: {{ $sync.image }}
command: [/bin/sh, /scripts/sync.sh, {{ .mode }}]
env:
  - name: SYNC_REMOTE
    value: {{ $sync.remote | quote }}
  - name: SYNC_FOLDER
    value: /models
  - name: SYNC_SECONDS
    value: {{ $sync.intervalSeconds | quote }}
  - name: SYNC_REMOVE_ALL
    value: {{ $sync.removeAll | quote }}
  - name: RCLONE_CONFIG
    value: /cache/rclone.conf
  - name: RCLONE_CACHE_DIR
    value: /cache
  - name: TMPDIR
    value: /cache
{{- with $sync.secretName }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
resources: {{- toYaml $sync.resources | nindent 2 }}
securityContext: {{- toYaml .root.Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /cache
  - name: models
    mountPath: /models
  - name: scripts
    mountPath: /scripts
    readOnly: true
{{- end -}}
