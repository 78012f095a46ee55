"""Our own parts, offered through the hooks that any plugin has."""

from collections.abc import Iterable

from dgemma_backend.hookspecs import (
    ChatProtocolRecord,
    EngineRecord,
    KernelsRecord,
    ProviderRecord,
    QuantizationRecord,
    SamplerRecord,
    StopRuleRecord,
    hookimpl,
)


@hookimpl
def dgemma_engines() -> Iterable[EngineRecord]:
    """The engine that runs a checkpoint in this process."""
    return [
        EngineRecord(
            "torch",
            "dgemma_backend.runtime.torch_engine:TorchEngine",
            summary="a checkpoint in this process, on CPU or CUDA",
        )
    ]


@hookimpl
def dgemma_kernels() -> Iterable[KernelsRecord]:
    """The plain torch operations, and Triton's."""
    return [
        KernelsRecord(
            "reference", "dgemma_kernels:reference_kernels", summary="plain torch, any device"
        ),
        KernelsRecord(
            "triton",
            "dgemma_kernels.triton_table:triton_kernels",
            summary="Triton, CUDA devices of capability 8.0 and newer",
        ),
    ]


@hookimpl
def dgemma_quantizations() -> Iterable[QuantizationRecord]:
    """Formats whose kernels we have."""
    return [
        QuantizationRecord(
            "int4",
            "dgemma_backend.weights.formats:Int4",
            summary="experts in 4 bits, attention and dense MLP in 8",
        ),
        QuantizationRecord(
            "fp8",
            "dgemma_backend.weights.formats:Fp8",
            summary="experts, attention and dense MLP as 8-bit floats",
        ),
    ]


@hookimpl
def dgemma_samplers() -> Iterable[SamplerRecord]:
    """The checkpoint's own sampler."""
    return [
        SamplerRecord(
            "entropy_bound",
            "dgemma_backend.diffusion.sampler:EntropyBoundSampler",
            summary="accepts the surest positions up to a sum of entropies",
        )
    ]


@hookimpl
def dgemma_stop_rules() -> Iterable[StopRuleRecord]:
    """The checkpoint's own stop rule, and none."""
    return [
        StopRuleRecord(
            "stable_and_confident",
            "dgemma_backend.diffusion.stopping:StableAndConfident",
            summary="the draft has not changed and the model is sure of it",
        ),
        StopRuleRecord(
            "never",
            "dgemma_backend.diffusion.stopping:Never",
            summary="every canvas takes max_denoising_steps",
        ),
    ]


@hookimpl
def dgemma_chat_protocols() -> Iterable[ChatProtocolRecord]:
    """The chat format DiffusionGemma was trained with."""
    return [
        ChatProtocolRecord(
            "gemma4", "dgemma_backend.chat.protocol:Gemma4Protocol", summary="Gemma 4's turns"
        )
    ]


@hookimpl
def dgemma_providers() -> Iterable[ProviderRecord]:
    """Our framework adapters."""
    return [
        ProviderRecord(
            "langchain",
            "langchain_dgemma:ChatDiffusionGemma",
            summary="a LangChain chat model",
            requires=("langchain-core>=1.6.10,<2",),
            extra="langchain",
        ),
        ProviderRecord(
            "llama_index",
            "llama_index.llms.dgemma:DiffusionGemma",
            summary="a LlamaIndex LLM that calls tools",
            requires=("llama-index-core>=0.14.25,<0.15",),
            extra="llama-index",
        ),
    ]
