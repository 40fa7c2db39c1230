#!/usr/bin/env bash
# Run the job on sample clips with planted near-duplicates, in sample/ of this folder: scripts/quickstart.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
folder="$root/sample"
rm -rf "$folder/clips" "$folder/dedup"
mkdir -p "$folder"
echo "Making 3,000 sample clips in $folder/clips ..."
python "$root/scripts/make_sample_clips.py" "$folder/clips"
"$root/scripts/run.sh" \
  --input-embeddings-path "$folder/clips/iv2_embd" \
  --output-path "$folder/dedup" \
  --n-clusters 10 \
  --eps-thresholds 0.01 0.001 \
  --eps-to-extract 0.01 \
  --which-to-keep hard \
  --files-per-partition 1000
echo
python "$root/scripts/check_planted.py" "$folder/clips" "$folder/dedup"
echo "The clips to keep: $folder/dedup/extraction/kept_ids.parquet"
