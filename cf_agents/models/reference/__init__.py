"""The networks that only making a voice needs: speaker encoder, x-vector net, speech tokenizer and their front ends."""

from cf_agents.models.reference.model import Analysis, ReferenceModel
from cf_agents.models.reference.speech_tokenizer import SpeechTokenizer
from cf_agents.models.reference.voice_encoder import VoiceEncoder
from cf_agents.models.reference.xvector import XVector

__all__ = ["Analysis", "ReferenceModel", "SpeechTokenizer", "VoiceEncoder", "XVector"]
