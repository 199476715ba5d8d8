{{- define "posthorn.name" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "posthorn.selector" -}}
app.kubernetes.io/name: posthorn
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "posthorn.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "posthorn.selector" . | nindent 2 }}
{{- end }}

{{- define "posthorn.certificatesSecret" -}}
{{ .Values.certificates.secretName | default (printf "%s-fabric" (include "posthorn.name" .)) }}
{{- end }}

{{/* How long a node may take to end, by what its configuration gives each step of a drain. */}}
{{- define "posthorn.terminationGracePeriodSeconds" -}}
{{- $config := include "posthorn.config" . | fromYaml }}
{{- $drain := $config.drain }}
{{- $closing := dig "edge" "close_timeout_ms" 5000 $config | int | add 999 }}
{{- add $drain.grace_s $drain.window_s (div $closing 1000) $drain.disconnect_timeout_s 10 }}
{{- end }}

{{/*
The configuration of every node: what follows from the cluster, and over it what `config` says.
*/}}
{{- define "posthorn.config" -}}
{{- $name := include "posthorn.name" . }}
{{- $voters := list }}
{{- range $id := until (int .Values.cluster.initialVoters) }}
{{- $voters = append $voters (dict "id" $id "address" (printf "%s-%d.%s-peers:7946" $name $id $name)) }}
{{- end }}
{{- $own := dict
  "node" (dict "id" "hostname" "data_dir" "/var/lib/posthorn/data")
  "cluster" (dict
    "name" .Values.cluster.name
    "initial_voters" $voters
    "peers" (list (printf "%s-peers:7946" $name))
    "voters_max" (max 3 (int .Values.cluster.initialVoters)))
  "fabric" (dict
    "listen" "0.0.0.0:7946"
    "advertise" (printf "%s-{id}.%s-peers:7946" $name $name)
    "ca_file" "/etc/posthorn-fabric/ca.pem"
    "cert_file" "/etc/posthorn-fabric/node-{id}.pem"
    "key_file" "/etc/posthorn-fabric/node-{id}.key") }}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml }}
{{- end }}

{{/* What cannot be rendered into something that works is refused here. */}}
{{- define "posthorn.check" -}}
{{- $least := .Values.replicas }}
{{- if .Values.autoscaling.enabled }}{{ $least = .Values.autoscaling.minReplicas }}{{ end }}
{{- if lt (int $least) (int .Values.cluster.initialVoters) }}
{{- fail (printf "cluster.initialVoters: there are only %d nodes to be %d voters" (int $least) (int .Values.cluster.initialVoters)) }}
{{- end }}
{{- $most := .Values.replicas }}
{{- if .Values.autoscaling.enabled }}{{ $most = .Values.autoscaling.maxReplicas }}{{ end }}
{{- if gt (int $most) (int .Values.certificates.nodesMax) }}
{{- fail (printf "certificates.nodesMax: there may be %d nodes, and certificates are for %d" (int $most) (int .Values.certificates.nodesMax)) }}
{{- end }}
{{- if not .Values.config.principals }}
{{- fail "config.principals: nobody may call; name somebody, see values.yaml" }}
{{- end }}
{{- end }}
