#!/usr/bin/env bash
# Audits a Stable Diffusion 1 or 2 checkpoint with public prompt lists; docs/real-checkpoints.md explains each step.
#
#     examples/sd14_audit.sh MODEL PROMPTS OUT
#
# MODEL is a hub id, a folder or a single file; PROMPTS is what examples/public_lists.py wrote. Whatever is finished in
# OUT isn't done again: after an interruption run the same command. Settings, with what they are by default:
# STEPS=50 GUIDANCE=7.5 SEEDS=4 FPR=0.01 K=0.01 TAU=10 AT=0,1,10,25,50 WORKS=16 EPOCHS=5 DEVICE=auto; BATCH is how many
# draws a search step has; TWIN names a model that never saw the works, if there is one; AUDIT is full, quick or none.
set -euo pipefail

if [ $# -ne 3 ]; then
    echo "usage: $0 MODEL PROMPTS OUT" >&2
    exit 2
fi
model=$1 prompts=$2 out=$3
diffshield=${DIFFSHIELD:-$(command -v diffshield || echo "$(dirname "$0")/../.venv/bin/diffshield")}
for file in memorized.csv locate.csv works.csv others.csv nonmembers.csv calibration.txt benign.txt; do
    if [ ! -f "$prompts/$file" ]; then
        echo "$prompts lacks $file; make it with examples/public_lists.py LISTS $prompts --fetch." >&2
        exit 2
    fi
done

# Thresholds belong to this checkpoint and these settings, so they are kept with the run and not with the user's others.
mkdir -p "$out/home"
DIFFSHIELD_HOME=$(cd "$out/home" && pwd)
export DIFFSHIELD_HOME
sampling=(--steps "${STEPS:-50}" --guidance "${GUIDANCE:-7.5}")
common=(--model "$model" --device "${DEVICE:-auto}")
twin=(${TWIN:+--twin "$TWIN"})

step() {
    echo "== $*" >&2
    "$diffshield" "$@"
}

if ! ls "$DIFFSHIELD_HOME"/thresholds/*.json >/dev/null 2>&1; then
    step calibrate "${common[@]}" "${sampling[@]}" --prompts "$prompts/calibration.txt" --fpr "${FPR:-0.01}" \
        --seeds "${SEEDS:-4}"
fi
for list in memorized others; do
    step scan "$prompts/$list.csv" --out "$out/scan-$list" "${common[@]}" --steps "${STEPS:-50}" \
        --guidance "${GUIDANCE:-7.5}" --seeds "${SEEDS:-4}" --resume
done
step localize "$prompts/locate.csv" --out "$out/mask" "${common[@]}" "${sampling[@]}" --k "${K:-0.01}" \
    --tau "${TAU:-10}" --resume
step prune "$out/mask" --out "$out/pruned" "${common[@]}" "${sampling[@]}" --prompts "$prompts/works.csv" \
    --benign "$prompts/benign.txt" --seeds "${SEEDS:-4}" --resume
step attack --mask "$out/mask" --out "$out/attacked" "${common[@]}" "${sampling[@]}" --prompts "$prompts/works.csv" \
    --nonmembers "$prompts/nonmembers.csv" --at "${AT:-0,1,10,25,50}" --batch "${BATCH:-8}" --seeds "${SEEDS:-4}" \
    ${twin[@]+"${twin[@]}"} --resume
step harden --mask "$out/mask" --out "$out/hardened" "${common[@]}" "${sampling[@]}" --prompts "$prompts/works.csv" \
    --nonmembers "$prompts/nonmembers.csv" --benign "$prompts/benign.txt" --works "${WORKS:-16}" \
    --epochs "${EPOCHS:-5}" --at "${AT:-0,1,10,25,50}" --seeds "${SEEDS:-4}" --save "$out/hardened-model" \
    ${twin[@]+"${twin[@]}"} --resume
audit=(audit --out "$out/audit" "${common[@]}" --prompts "$prompts/works.csv" ${twin[@]+"${twin[@]}"} --resume)
case ${AUDIT:-full} in
    full) step "${audit[@]}" ;;
    quick) step "${audit[@]}" --quick ;;
esac
for run in scan-memorized scan-others mask pruned attacked hardened; do
    step report "$out/$run"
done
