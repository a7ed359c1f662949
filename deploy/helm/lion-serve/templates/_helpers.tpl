{{/*
Copyright 2026 The LION Serve Authors
SPDX-License-Identifier: Apache-2.0

Names, labels and what more than one template says.
*/}}

{{- define "lion.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "lion.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "lion.name" .) .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "lion.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "lion.selector" -}}
app.kubernetes.io/name: {{ include "lion.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "lion.labels" -}}
{{ include "lion.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lion-serve
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "lion.serviceAccount" -}}
{{ if .Values.serviceAccount.create }}{{ default (include "lion.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "lion.image" -}}
{{- $tag := default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" (gt (int .Values.gpu.count) 0))) .Values.image.tag -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end }}

{{/* The name that the certificate is checked for, inside the pod too. */}}
{{- define "lion.serverName" -}}
{{ default (printf "%s.%s.svc" (include "lion.fullname" .) .Release.Namespace) .Values.tls.serverName }}
{{- end }}

{{/* Whole cores that the pod has: its limit, else its request; 0 if neither is set or it is below one. */}}
{{- define "lion.cores" -}}
{{- $limits := default dict .Values.resources.limits -}}
{{- $requests := default dict .Values.resources.requests -}}
{{- $cpu := default (default 0 $requests.cpu) $limits.cpu | toString -}}
{{- if hasSuffix "m" $cpu -}}{{ div (trimSuffix "m" $cpu | int) 1000 }}{{- else -}}{{ $cpu | float64 | floor | int }}{{- end -}}
{{- end }}

{{/* lion-client's flags for this server, a YAML list; empty without TLS. */}}
{{- define "lion.clientFlags" -}}
{{- if .Values.tls.secretName -}}
- --tls_ca=/etc/lion/tls/ca.crt
- --tls_server_name={{ include "lion.serverName" . }}
{{- if .Values.tls.clientCaSecretName }}
{{- $folder := ternary "client-tls" "tls" (ne .Values.tls.clientSecretName "") }}
- --tls_cert=/etc/lion/{{ $folder }}/tls.crt
- --tls_key=/etc/lion/{{ $folder }}/tls.key
{{- end }}
{{- end }}
{{- end }}

{{/* What a probe asks: (dict "root" . "service" NAME), the empty name being the process itself. */}}
{{- define "lion.probe" -}}
{{- if .root.Values.tls.secretName -}}
exec:
  command:
    - lion-client
    - health
    {{- with .service }}
    - {{ . }}
    {{- end }}
    - --deadline=4s
    {{- include "lion.clientFlags" .root | nindent 4 }}
{{- else -}}
grpc:
  port: 50051
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "lion.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "lion.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Secrets that hold TLS files, as volumes and as mounts. */}}
{{- define "lion.tlsVolumes" -}}
{{- if .Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secretName }}
    defaultMode: 0440
{{- end }}
{{- if .Values.tls.clientCaSecretName }}
- name: client-ca
  secret:
    secretName: {{ .Values.tls.clientCaSecretName }}
    defaultMode: 0440
{{- end }}
{{- if .Values.tls.clientSecretName }}
- name: client-tls
  secret:
    secretName: {{ .Values.tls.clientSecretName }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "lion.tlsMounts" -}}
{{- if .Values.tls.secretName }}
- { name: tls, mountPath: /etc/lion/tls, readOnly: true }
{{- end }}
{{- if .Values.tls.clientCaSecretName }}
- { name: client-ca, mountPath: /etc/lion/client-ca, readOnly: true }
{{- end }}
{{- if .Values.tls.clientSecretName }}
- { name: client-tls, mountPath: /etc/lion/client-tls, readOnly: true }
{{- end }}
{{- end }}

{{/* What no schema can say: values that need or exclude each other. */}}
{{- define "lion.validate" -}}
{{- $v := .Values -}}
{{- if and (eq $v.modelSource.type "pvc") (not $v.modelSource.pvc.claimName) }}{{ fail "modelSource.pvc.claimName: is empty, and modelSource.type is pvc" }}{{ end }}
{{- if and (eq $v.modelSource.type "init") (not $v.modelSource.init.image) }}{{ fail "modelSource.init.image: is empty, and modelSource.type is init" }}{{ end }}
{{- if and (eq $v.modelSource.type "imageVolume") (not $v.modelSource.imageVolume.reference) }}{{ fail "modelSource.imageVolume.reference: is empty, and modelSource.type is imageVolume" }}{{ end }}
{{- if le (int $v.drain.timeoutSeconds) (int $v.drain.delaySeconds) }}{{ fail (printf "drain.timeoutSeconds: %d is not above drain.delaySeconds, %d" (int $v.drain.timeoutSeconds) (int $v.drain.delaySeconds)) }}{{ end }}
{{- if and (not $v.tls.secretName) (or $v.tls.clientCaSecretName $v.tls.clientSecretName) }}{{ fail "tls.clientCaSecretName and tls.clientSecretName need tls.secretName" }}{{ end }}
{{- if and $v.http.enabled $v.tls.clientCaSecretName }}{{ fail "http.enabled: HTTP asks callers for no certificate, as tls.clientCaSecretName wants; put a gateway before it" }}{{ end }}
{{- if and $v.http.enabled (has (int $v.http.port) (list (int $v.service.port) (int $v.metrics.port))) }}{{ fail (printf "http.port: %d is service.port or metrics.port" (int $v.http.port)) }}{{ end }}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled }}{{ fail "metrics.serviceMonitor and metrics.podMonitor: one of them, or each pod is scraped twice" }}{{ end }}
{{- if and (ne $v.autoscaling.type "none") (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}{{ fail (printf "autoscaling.minReplicas: %d is above autoscaling.maxReplicas, %d" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}{{ end }}
{{- if and (eq (toString $v.rollout.maxSurge) "0") (eq (toString $v.rollout.maxUnavailable) "0") }}{{ fail "rollout: maxSurge and maxUnavailable are both 0, so no pod could ever be replaced" }}{{ end }}
{{- end }}
