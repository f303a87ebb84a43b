"""Make keys_released.txt.gz: file, name and shape of every tensor of the published classes at their released sizes.

Run in an environment that has chatterbox-flash 0.1.0 over chatterbox-tts 0.1.7: `python tests/goldens/make_keys.py`.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import without_init


def main() -> None:
    without_init("chatterbox")
    from chatterbox.models.s3gen.s3gen import S3Token2Wav
    from chatterbox.models.voice_encoder import VoiceEncoder
    from chatterbox_flash.model import ChatterboxFlashT3

    classes = {"t3_flash": ChatterboxFlashT3(), "s3gen": S3Token2Wav(meanflow=True), "ve": VoiceEncoder()}
    # No time and no name in the header: the same list gives the same bytes.
    with (HERE / "keys_released.txt.gz").open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        for file, module in classes.items():
            for name, value in module.state_dict().items():
                out.write(f"{file}.safetensors\t{name}\t{','.join(map(str, value.shape))}\n".encode())


main()
