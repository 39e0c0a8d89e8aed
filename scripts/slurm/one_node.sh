#!/usr/bin/env bash
# One-machine SLURM on loopback, no systemd, no cgroups. Debian 12 (slurm-wlm 22.05.8), run as root.
#   one_node.sh install only install what is missing
#   one_node.sh up      install what is missing, start munged, slurmctld and slurmd, wait until the node is idle
#   one_node.sh down    stop exactly the daemons this script started (by the pid files under its own directory)
#   one_node.sh env     print the export line the clients (sbatch, submitit, hydra) need
# RHTOOL_SLURM_NODES=2 has this machine play several nodes, vm1 and vm2, with RHTOOL_SLURM_CPUS each.
# Everything lives under $RHTOOL_SLURM_DIR (default ${TMPDIR:-/tmp}/rhtool-slurm): config, key, sockets, state, logs. /etc is not touched.
set -euo pipefail
D=${RHTOOL_SLURM_DIR:-${TMPDIR:-/tmp}/rhtool-slurm}
BASE=${RHTOOL_SLURM_PORT:-26817}                 # slurmctld; the slurmds have the next ones
NODES=${RHTOOL_SLURM_NODES:-1}
NCPU=${RHTOOL_SLURM_CPUS:-$(nproc)}
HOST=$(hostname -s)
CONF=$D/slurm.conf
if [ "$NODES" = 1 ]; then NAMES=$HOST; else NAMES=$(seq -f "$HOST%g" "$NODES"); fi
export SLURM_CONF=$CONF

running() { kill -0 "$1" 2>/dev/null && [ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" != Z ]; }  # a zombie is not running
alive() { [ -s "$1" ] && running "$(cat "$1")"; }
die() { echo "one_node: $1" >&2; [ -n "${2:-}" ] && tail -20 "$2" >&2; exit 1; }

install() {
  local need=()
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null || need+=(slurm-wlm)
  command -v munged >/dev/null || need+=(munge)
  [ ${#need[@]} = 0 ] && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
}

configure() {
  mkdir -p "$D"/{munge,ctld,slurmd,log}
  chmod 755 "$D" "$D"/munge
  [ -s "$D/munge/key" ] || { dd if=/dev/urandom of="$D/munge/key" bs=128 count=1 status=none; chmod 400 "$D/munge/key"; }
  cat > "$CONF" <<C
ClusterName=rh
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$BASE
AuthType=auth/munge
AuthInfo=socket=$D/munge/sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$D/ctld
SlurmdSpoolDir=$D/slurmd/%n
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd/%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
MaxArraySize=1001
MinJobAge=600
KillWait=5
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
$(i=0; for n in $NAMES; do i=$((i+1))
echo "NodeName=$n NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((BASE+i)) CPUs=$NCPU RealMemory=${RHTOOL_SLURM_MEM_MB:-8000} State=UNKNOWN"; done)
PartitionName=debug Nodes=$(echo $NAMES | tr ' ' ,) Default=YES MaxTime=INFINITE State=UP
C
  # 22.05 loads a cgroup plugin even when nothing uses it: 'disabled' does not exist in Debian's build (only v1 and v2),
  # v2 dies on a hybrid mount, v1 loads and stays unused with linuxproc + task/none.
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' > "$D/cgroup.conf"
}

up() {
  install
  configure
  alive "$D/munge/pid" || munged --force --key-file="$D/munge/key" --socket="$D/munge/sock" \
      --pid-file="$D/munge/pid" --log-file="$D/munge/log" --seed-file="$D/munge/seed" --num-threads=2
  munge -n -S "$D/munge/sock" | unmunge -S "$D/munge/sock" | grep -q 'Success' || die "munge does not decode" "$D/munge/log"
  alive "$D/slurmctld.pid" || slurmctld -f "$CONF" || die slurmctld "$D/log/slurmctld.log"
  for n in $NAMES; do
    mkdir -p "$D/slurmd/$n"
    alive "$D/slurmd/$n.pid" || slurmd -f "$CONF" -N "$n" || die "slurmd $n" "$D/log/$n.log"
  done
  local s=
  for i in $(seq 120); do
    s=$(sinfo -h -o %t 2>/dev/null || true)  # a line for each state that there is
    case $s in idle|mix|alloc) break;; esac
    sleep 0.25
  done
  case $s in idle|mix|alloc) sinfo -N -l;; *) die "node never came up: '$s'" "$D/log/slurmctld.log";; esac
}

down() {
  if command -v scancel >/dev/null && alive "$D/slurmctld.pid"; then scancel -u root 2>/dev/null || true; sleep 1; fi
  for p in $(cd "$D" && ls slurmd/*.pid) slurmctld.pid munge/pid; do
    local f=$D/$p pid
    if alive "$f"; then
      pid=$(cat "$f"); kill "$pid"
      for i in $(seq 80); do running "$pid" || break; sleep 0.25; done
      if running "$pid"; then echo "$p $pid does not end on TERM, KILL"; kill -9 "$pid"; fi
    fi
    rm -f "$f"
  done
  echo down
}

case ${1:-up} in
  install) install;;
  up) up;;
  down) down;;
  env) echo "export SLURM_CONF=$CONF";;
  *) echo "usage: $0 install|up|down|env"; exit 2;;
esac
