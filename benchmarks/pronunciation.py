"""How espeak-ng says a word, in the phones of pocketsphinx's English model: for words that its dictionary lacks.

espeak-ng's mnemonics become the ARPAbet of the CMU Pronouncing Dictionary, stress left out.
"""

from __future__ import annotations

from functools import cache

from training.config import SPEAKERS
from training.speech import PAUSES, PHONES, speak
from training.text import word_list

_SPELT = word_list(
    "0=AA 3=ER 3:=ER ;= ?=T @=AH @-=AH @2=AH @L=AH_L A:=AA A@=AA_R D=DH E=EH I=IH I#=IH I2=IH N=NG O2=AO O:=AO O@=AO_R "
    "OI=OY S=SH T=TH U=UH U@=UH_R V=AH Z=ZH a=AE a#=AH aI=AY aI3=AY_ER aI@=AY_AH aU=AW aa=AE b=B d=D dZ=JH e@=EH_R "
    "eI=EY f=F g=G h=HH i=IY i:=IY i@=IY_AH i@3=IH_R j=Y k=K l=L m=M n=N n-=AH_N o@=AO_R oU=OW p=P r=R r-=R s=S t=T "
    "t#=T t2=T tS=CH u:=UW v=V w=W x=K z=Z"
)
_ARPABET = {name: phones for name, _, phones in (pair.partition("=") for pair in _SPELT)}
assert set(_ARPABET) == set(PHONES[PAUSES:])


@cache
def pronunciation(word: str) -> str:
    """Phones of one word, parted by spaces; empty where espeak-ng says nothing. Raises `BackendUnavailable` without it."""
    said = speak(word, SPEAKERS[0])
    return " ".join(filter(None, (_ARPABET.get(name) for _, name in said.phones))) if said is not None else ""
