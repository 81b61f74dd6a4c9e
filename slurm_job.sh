#!/bin/bash
# Shards and training as one SLURM job: a Ray cluster over the job's machines makes the shards, then torchrun trains.
#   sbatch --nodes 4 slurm_job.sh recipes/twist_opt_350m.yaml /shared/runs/twist_opt_350m
# The checkout, its .venv, the home folder and the run must lie where all machines see them. A job that runs out of time,
# or is preempted, is queued again and goes on where it was. docs/containers.md says more.
#SBATCH --job-name=twist
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=twist-%j.log
set -euo pipefail

recipe=${1:?name the recipe: sbatch slurm_job.sh RECIPE RUN}
run=${2:?name the run: sbatch slurm_job.sh RECIPE RUN}
gpus=${SLURM_GPUS_ON_NODE:-0}
cd "${SLURM_SUBMIT_DIR:?this is a script for sbatch}"
source .venv/bin/activate

machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines%%$'\n'*}  # `| head -n 1` would end scontrol, and with it this script, where it is not done writing
addresses=$(srun --overlap --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address)
address=${addresses%% *}
on_each=(srun --overlap --ntasks-per-node 1 --cpus-per-task "$SLURM_CPUS_PER_TASK" --gpus-per-node "$gpus")

# SLURM tells the script, two minutes before it ends the job; what runs is told here, and the job is queued again.
stop() {
    kill -TERM "$at_work" 2>/dev/null || true
    wait "$at_work" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
at_work=
trap stop TERM
# bash hears a signal only between commands, or in `wait`.
attentively() {
    "$@" &
    at_work=$!
    wait "$at_work"
}

# Whoever reaches a Ray cluster can run code on it: Ray asks for a token, which lies in the home folder.
export RAY_AUTH_MODE=token
[ -f ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token
# Jobs that share machines get ports of their own.
port=$((20000 + SLURM_JOB_ID % 20000))
ulimit -n 65536 || true
"${on_each[@]}" --nodes 1 --ntasks 1 --nodelist "$head" \
    ray start --block --head --node-ip-address "$address" --port "$port" --dashboard-host 127.0.0.1 \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$gpus" &
ray_head=$!
export RAY_ADDRESS=$address:$port
until ray status > /dev/null 2>&1; do sleep 2; done
ray_workers=
if [ "$SLURM_NNODES" -gt 1 ]; then
    "${on_each[@]}" --nodes $((SLURM_NNODES - 1)) --ntasks $((SLURM_NNODES - 1)) --exclude "$head" \
        ray start --block --address "$RAY_ADDRESS" --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$gpus" &
    ray_workers=$!
fi
# A command takes the GPUs that there are when it starts.
until [ "$(ray status | grep -c '^ 1 node_')" -ge "$SLURM_NNODES" ]; do sleep 2; done

attentively twist run --config "$recipe" --run "$run" --until pack

kill -TERM $ray_workers "$ray_head" || true
wait $ray_workers "$ray_head" || true
unset RAY_ADDRESS

# Without GPUs, one process a machine.
attentively "${on_each[@]}" --nodes "$SLURM_NNODES" --ntasks "$SLURM_NNODES" \
    torchrun --nnodes "$SLURM_NNODES" --nproc-per-node $((gpus > 0 ? gpus : 1)) \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$address:$((port + 1))" \
    -m -- jobs.train --config "$recipe" --run "$run"
