# To be sourced by bash: several processes share the runs of one sweep.
#
#   share JOBS LOGS COMMAND...
#
# The first process reports here, process n in LOGS/process-n.log. A run that another one is at work on is passed over. Interrupted, all
# keep their checkpoints, and the same call goes on. Returns the status of one that failed, 0 if none did.
share() {
    local jobs=$1 logs=$2 job i failed=0
    shift 2
    mkdir -p "$logs"
    shared=()
    trap stop_sharing INT TERM
    for ((job = 1; job <= jobs; job++)); do
        if ((job == 1)); then
            "$@" &
        else
            echo "process $job of $jobs reports in $logs/process-$job.log"
            "$@" >"$logs/process-$job.log" 2>&1 &
        fi
        shared+=($!)
    done
    for i in "${!shared[@]}"; do
        wait "${shared[i]}" || {
            failed=$?
            ((i == 0)) || tail -n 20 "$logs/process-$((i + 1)).log" >&2
        }
    done
    trap - INT TERM
    return "$failed"
}

stop_sharing() {
    trap '' INT TERM
    kill -TERM "${shared[@]}" 2>/dev/null || true
    wait
    echo "stopped; repeat the command to go on" >&2
    exit 143
}
