"""DiffusionGemma as a LangChain chat model.

from langchain_dgemma import ChatDiffusionGemma

model = ChatDiffusionGemma(model="tiny")
print(model.invoke("Hello!").content)
"""

from dgemma_backend import __version__
from langchain_dgemma.chat_models import ChatDiffusionGemma

__all__ = ["ChatDiffusionGemma", "__version__"]
