#!/usr/bin/env bash
# Makes the environment that holds the published package for comparisons and goldens: chatterbox-flash 0.1.0 over chatterbox-tts 0.1.7.
#
#   bash benchmarks/peer_environment.sh DIR        then pass DIR/bin/python as --peer-python
#
# Its pins are overridden on purpose (they forbid today's torch and numpy). torchaudio's shared objects want CUDA and its two uses
# here are plain torch, so they are removed.
set -euo pipefail
dir=${1:?usage: peer_environment.sh DIR}
python3 -m venv "$dir"
pip=("$dir/bin/python" -m pip install -q)
"${pip[@]}" torch==2.13.0
"${pip[@]}" 'numpy<2' transformers==5.2.0 scipy librosa==0.11.0 einops tqdm safetensors tokenizers huggingface_hub \
    onnx protobuf ml_dtypes pillow regex omegaconf inflect Unidecode
"${pip[@]}" --no-deps s3tokenizer==0.3.0 diffusers==0.29.0 conformer==0.3.2 torchaudio==2.11.0 \
    chatterbox-tts==0.1.7 chatterbox-flash==0.1.0
rm -f "$dir"/lib/python3*/site-packages/torchaudio/lib/*.so
