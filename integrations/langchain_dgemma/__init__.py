"""DiffusionGemma as a LangChain chat model.

    from langchain_dgemma import ChatDiffusionGemma

    model = ChatDiffusionGemma(model="tiny")
    print(model.invoke("Hello!").content)

`register()` teaches `init_chat_model` the provider "dgemma".
"""

from dgemma_backend import __version__
from langchain_dgemma.chat_models import ChatDiffusionGemma
from langchain_dgemma.registration import register

__all__ = ["ChatDiffusionGemma", "__version__", "register"]
