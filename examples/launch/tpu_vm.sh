#!/usr/bin/env bash
# A run on all hosts of a Cloud TPU slice: NAME ZONE DIR CONFIG [ARGUMENTS of l2o train]
#
# DIR is on a file system that all hosts have mounted, as Filestore. JAX asks the TPU's
# metadata which host is which. A run that stops, by whatever, is continued; a slice that
# was taken away must be made again first.
set -uo pipefail
(($# >= 4)) || { echo "usage: $0 NAME ZONE DIR CONFIG [ARGUMENT...]" >&2; exit 2; }
name=$1 zone=$2 dir=$3 config=$4
shift 4
command="exec l2o train $(printf '%q ' "$config" --out "$dir" --resume "$@")"

pause=1
for attempt in {1..20}; do
    gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$command"
    status=$?
    # Done, or wrong usage, which will not get better.
    case $status in 0 | 2) exit "$status" ;; esac
    echo "attempt $attempt ended with status $status, the next one in $pause s" >&2
    sleep "$pause"
    pause=$((pause < 60 ? 2 * pause : 60))
done
exit "$status"
