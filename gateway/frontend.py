"""Where a request enters, by HTTP or gRPC.

The way of a request through the files: `http/routes.py` or `grpc_inference.py` read it into a
`GenerationRequest` (`request.py`), which is protocol-neutral. `Frontend.generate` checks it
(`limits.py`), tokenises it (`prompts.py`), lets its grammar be checked (`grammars.py`) and submits
each of its choices (`tokens.py`) to `dispatcher.py`, which hands it to `scheduler.py`, whose
decisions go to the workers through `worker_link.py`. Tokens come back the same way: a `Choice`
(`choice.py`) turns them into text (`text.py`) and tool calls (`tools/parser.py`), an `Answer`
(`answer.py`) merges the choices' events, and the protocol writes them out.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import inf
from typing import TypeVar

from gateway.access import Access
from gateway.answer import Answer
from gateway.choice import Choice, Echo
from gateway.grammars import GrammarChecker
from gateway.limits import (
    DEFAULT_MODEL,
    check_echo,
    check_ids,
    check_model_name,
    check_prompt_length,
    check_prompt_logprobs,
    check_prompts,
    check_request,
    prompt_param,
    scores_prompts,
    wants_no_tokens,
)
from gateway.no_tokens import NoTokens
from gateway.offload import Offload
from gateway.params import sampling_params, settled, with_defaults
from gateway.prefix_salt import prefix_salt
from gateway.prompts import EncodedPrompt, encode_prompt, encode_prompts, hash_prompts, needs_work
from gateway.request import GenerationRequest, Prompt, TokenPrompt
from gateway.sizes import prompt_size, request_size, tools_chars
from gateway.tenants import DEFAULT_TENANT
from gateway.text import PromptPlaces, TokenText
from gateway.tokens import ServedModel, TokenRequest, TokenService, TokenStream
from gateway.tools.grammar import tool_grammar
from gateway.tools.limits import check_tools
from gateway.tools.parser import ToolCallParser
from gateway.tools.syntax import ToolFormat, tool_format
from gateway.tools.tool import ToolUse
from gateway.tracing.trace import RequestTrace, Tracing
from gateway.under_way import UnderWay
from tandem.artifacts.sampling_defaults import SamplingDefaults
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import DeadlineExceeded, InvalidRequest, Unavailable
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.sampling_params import SamplingParams

T = TypeVar("T")

NUM_TOKENIZER_THREADS = 2
NO_DEFAULTS = SamplingDefaults()
# Characters of prompts that are being tokenised or wait for it: some seconds of work.
MAX_PENDING_CHARS = 16 * 2**20
# Of prompts that are tokenised where they are: to wake a thread for so little would take longer,
# and it would wait for the event loop to let go of the interpreter.
MAX_CHARS_READ_AT_ONCE = 512
# A millisecond's, on a slow core.
MAX_TOKENS_HASHED_AT_ONCE = 4_096
NUM_GRAMMAR_THREADS = 4
# Grammars that are being checked or wait for it.
MAX_PENDING_GRAMMARS = 64


class Frontend:
    """Takes requests of either protocol to the dispatcher. Lives on the dispatcher's event loop."""

    def __init__(
        self,
        service: TokenService,
        tokenizer: Tokenizer,
        grammars: GrammarChecker,
        tool_format_name: str = "auto",
        access: Access | None = None,
        tracing: Tracing | None = None,
        defaults: SamplingDefaults = NO_DEFAULTS,
    ) -> None:
        """`tool_format_name` is a syntax's, or "auto" to find it in the chat template. `access`: to
        whom; all are the one tenant if None. Nothing is traced without `tracing`. `defaults` are
        the model's."""
        self.tokenizer = tokenizer
        self._service = service
        self._refusals = service.refusals
        self._grammars = grammars
        self.access = access or Access()
        self._tracing = tracing or Tracing()
        self._defaults = defaults
        self._tool_format = _tool_format(tokenizer, tool_format_name)
        self._opening_id = tokenizer.special_id(self._tool_format.syntax.opening)
        self._kept_ids = frozenset() if self._opening_id is None else frozenset({self._opening_id})
        tenants = self.access.tenants
        self._tokenizing = Offload("tokenize", NUM_TOKENIZER_THREADS, MAX_PENDING_CHARS, tenants)
        self._checking = Offload("grammar", NUM_GRAMMAR_THREADS, MAX_PENDING_GRAMMARS, tenants)
        self._under_way = UnderWay()
        # The first token's bytes take as long as reading the tokenizer does: not when a client
        # waits. Not that of a special token, which are known by themselves.
        for token_id in tokenizer.encode("a"):
            tokenizer.token_bytes(token_id)

    def close(self) -> None:
        """Let go of the threads. Generations under way go on."""
        self._tokenizing.close()
        self._checking.close()

    async def idle(self) -> None:
        """Wait until no request is being read, and no answer is open."""
        await self._under_way.idle()

    async def generate(self, request: GenerationRequest) -> Answer:
        """Check, tokenise and submit a request.

        Raises `InvalidRequest`, `NotFound` (the model), `ResourceExhausted` (too much is being
        tokenised) or what `TokenService.submit` raises. If it is cancelled, nothing was submitted.
        """
        request = with_defaults(request, self._defaults)
        trace = self._tracing.begin(request)
        try:
            with self._under_way.reading():
                return await self._generate(request, trace)
        except BaseException as error:
            trace.end(error)
            raise

    async def _generate(self, request: GenerationRequest, trace: RequestTrace) -> Answer:
        deadline_s = inf if request.timeout_s is None else time.monotonic() + request.timeout_s
        num_choices = len(request.prompts) * request.num_choices
        # Before all else: it tells and counts who is refused, also while no model is served.
        self._service.check_room(request.tenant, num_choices, deadline_s)
        model = self._require_model(request.model, request.tenant)
        check_request(request, model)
        if request.tools:
            check_tools(request.tools)
        params = sampling_params(request)
        with (
            self._service.reading(request.tenant, num_choices),
            self._refusals.counting(request.tenant),
        ):
            grammar, prompts = await self._prepare(request, model)
        # No await from here on: what was read is in flight before another can be, and what is
        # submitted is owned by the Answer that is returned.
        lengths = [len(each.token_ids) for each in prompts]
        check_prompt_logprobs(request, lengths)
        check_echo(request, sum(len(each.text) for each in prompts))
        quota = self.access.tenants[request.tenant].max_tokens_in_flight
        each = settled(params, request, lengths, model, grammar, quota)
        return self._submit(request, prompts, each, model, deadline_s, trace)

    async def tokenize(
        self,
        prompt: Prompt,
        write: Callable[[Sequence[int]], T],
        *,
        tenant: str = DEFAULT_TENANT,
        model: str = DEFAULT_MODEL,
        tools: ToolUse | None = None,
        add_special_tokens: bool = True,
        add_generation_prompt: bool = True,
    ) -> T:
        """What `write` makes of a prompt's token ids, on a thread: there may be hundreds of
        thousands. It is one of its tenant's requests for as long as it takes. Raises as `generate`,
        but a prompt may be of any length."""
        served = self._require_model(model, tenant)
        check_prompts((prompt,), served)
        if tools:
            check_tools(tools)
        encode = partial(
            encode_prompt,
            prompt,
            self.tokenizer,
            self._tool_format,
            tools,
            add_special_tokens=add_special_tokens,
            add_generation_prompt=add_generation_prompt,
        )
        return await self._read(tenant, prompt_size(prompt, tools), lambda: write(encode()))

    async def detokenize(
        self,
        token_ids: Sequence[int],
        write: Callable[[str], T],
        *,
        tenant: str = DEFAULT_TENANT,
        model: str = DEFAULT_MODEL,
    ) -> T:
        """What `write` makes of the text of tokens, special ones included, on a thread. Raises as
        `tokenize`."""
        served = self._require_model(model, tenant)

        def work() -> T:
            check_ids(token_ids, served, "tokens")
            return write(self.tokenizer.decode(token_ids, skip_special_tokens=False))

        return await self._read(tenant, len(token_ids), work)

    async def _read(self, tenant: str, size: int, work: Callable[[], T]) -> T:
        """What is done for a request of which nothing is generated."""
        reading = self._service.reading(tenant, 1)
        with self._under_way.reading(), reading, self._refusals.counting(tenant):
            return await self._tokenizing.run(size, work, tenant=tenant)

    def _require_model(self, name: str, tenant: str) -> ServedModel:
        model = self._service.model
        if model is None:
            with self._refusals.counting(tenant):
                raise Unavailable("no model is served yet", retry_after_s=1.0)
        check_model_name(name, model)
        return model

    async def _prepare(
        self, request: GenerationRequest, model: ServedModel
    ) -> tuple[Grammar | None, list[EncodedPrompt]]:
        """What takes its time before a request can be submitted. Raises `DeadlineExceeded` if that
        is too long."""
        try:
            async with asyncio.timeout(request.timeout_s):
                grammar = await self._check_grammar(request)
                prompts = await self._encode(request, model)
                for prompt in prompts:
                    check_prompt_length(len(prompt.token_ids), model, request)
                return grammar, await self._hash(request, prompts, model)
        except TimeoutError:
            raise DeadlineExceeded("reading the request took all of its time") from None

    async def _encode(self, request: GenerationRequest, model: ServedModel) -> list[EncodedPrompt]:
        def work() -> list[EncodedPrompt]:
            encoded = encode_prompts(request, self.tokenizer, self._tool_format)
            for prompt, each in zip(request.prompts, encoded, strict=True):
                # A tokenizer may know more than the model has rows for. What came as tokens is
                # checked.
                if not isinstance(prompt, TokenPrompt):
                    check_ids(each.token_ids, model, prompt_param(request))
            return encoded

        size = request_size(request)
        if size <= MAX_CHARS_READ_AT_ONCE or not needs_work(request):
            return work()
        return await self._tokenizing.run(size, work, tenant=request.tenant)

    async def _hash(
        self, request: GenerationRequest, prompts: Sequence[EncodedPrompt], model: ServedModel
    ) -> list[EncodedPrompt]:
        """The prompts with the names of their blocks."""
        salt = prefix_salt(request.tenant, request.cache_salt)
        work = partial(hash_prompts, prompts, model.block_size, salt)
        num_tokens = sum(len(each.token_ids) for each in prompts)
        if num_tokens <= MAX_TOKENS_HASHED_AT_ONCE:
            return work()
        return await self._tokenizing.run(num_tokens, work, tenant=request.tenant)

    async def _check_grammar(self, request: GenerationRequest) -> Grammar | None:
        """What an answer must look like, its tools considered. Raises `InvalidRequest` for what no
        worker could obey."""
        use, grammar, tenant = request.tools, request.grammar, request.tenant
        if use is not None and not (use.is_free and grammar is None):
            work = partial(self._tool_grammar, use, grammar)
            grammar = await self._tokenizing.run(tools_chars(use), work, tenant=tenant)
        # What is new takes tenths of a second, for which what is not need not wait.
        if grammar is not None and not self._grammars.knows(grammar):
            check = partial(self._check, grammar, use, request.grammar_param)
            await self._checking.run(1, check, tenant=tenant)
        return grammar

    def _check(self, grammar: Grammar, use: ToolUse | None, param: str) -> None:
        try:
            self._grammars.check(grammar)
        except InvalidRequest as error:
            what = error.message
            if use:
                param, what = "tools", f"as for what calls must look like, {what}"
            raise InvalidRequest(f"{param}: {what}", param=param) from error

    def _tool_grammar(self, use: ToolUse, answer: Grammar | None) -> Grammar | None:
        if answer is not None and answer.kind is not GrammarKind.JSON_SCHEMA:
            raise InvalidRequest("of all grammars only JSON goes with tools", param="tools")
        return tool_grammar(use, self._tool_format.syntax, self._opening_id, answer)

    def _submit(
        self,
        request: GenerationRequest,
        prompts: Sequence[EncodedPrompt],
        params: Sequence[SamplingParams],
        model: ServedModel,
        deadline_s: float,
        trace: RequestTrace,
    ) -> Answer:
        request_id = self._name(request)
        num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        trace.submitted(request_id, model.name, num_prompt_tokens, params[0])
        lengths = [
            len(prompt.token_ids) + each.max_tokens
            for prompt, each in zip(prompts, params, strict=True)
        ]
        num_tokens_behind = request.num_choices * sum(lengths)
        salt = prefix_salt(request.tenant, request.cache_salt)
        new_texts = [self._texts(request, model, prompt.token_ids) for prompt in prompts]
        choices: list[Choice] = []
        with self._service.together(), ExitStack() as submitted:
            num_choices = len(prompts) * request.num_choices
            for index in range(num_choices):
                prompt, place = divmod(index, request.num_choices)
                num_tokens_behind -= lengths[prompt]
                first, own_params = None, params[prompt]
                if place:
                    # How likely the prompt is, the first choice tells.
                    first = choices[index - place]
                    own_params = replace(own_params, prompt_logprobs=None)
                tokens = self._stream(
                    request,
                    TokenRequest(
                        request_id,
                        prompts[prompt].token_ids,
                        own_params,
                        choice_index=index,
                        prefix_salt=salt,
                        tenant=request.tenant,
                        priority=request.priority,
                        deadline_s=deadline_s,
                        trace=trace,
                        prefix=prompts[prompt].prefix,
                        num_behind=num_choices - index - 1,
                        num_tokens_behind=num_tokens_behind,
                        repeats_prompt=place > 0,
                    ),
                )
                submitted.callback(tokens.cancel)
                text, calls = new_texts[prompt](), self._parser(request)
                echo = self._echo(request, prompts[prompt])
                choices.append(Choice(index, tokens, text, calls, echo, first))
            # All or none.
            submitted.pop_all()
        self._under_way.opened(request.tenant, request_id)
        return Answer(
            request_id=request_id,
            model=model.name,
            num_prompt_tokens=num_prompt_tokens,
            choices=choices,
            choices_per_prompt=request.num_choices,
            on_close=partial(self._closed, request.tenant, request_id, trace),
            together=self._service.together,
        )

    def _name(self, request: GenerationRequest) -> str:
        """It names the request's tokens: no two of a tenant that run may share it. Whoever chose it
        for this alone is told so; a trace may have several requests, as after a client's retry."""
        tenant = request.tenant
        if self._under_way.is_open(tenant, request.request_id):
            raise InvalidRequest("a request with this request_id is running", param="request_id")
        name = request.request_id or request.trace_id or secrets.token_hex(16)
        while self._under_way.is_open(tenant, name):
            name = f"{request.trace_id}-{secrets.token_hex(4)}"
        return name

    def _stream(self, request: GenerationRequest, tokens: TokenRequest) -> TokenStream:
        if wants_no_tokens(request) and tokens.params.prompt_logprobs is None:
            return NoTokens()
        return self._service.submit(tokens)

    def _echo(self, request: GenerationRequest, prompt: EncodedPrompt) -> Echo:
        if not scores_prompts(request):
            return Echo(prompt.text)
        tokenizer = self.tokenizer
        places = PromptPlaces(prompt.text, tokenizer.decode_stream(), tokenizer.special_name)
        return Echo(prompt.text, len(prompt.token_ids), places)

    def _texts(
        self, request: GenerationRequest, model: ServedModel, prompt: Sequence[int]
    ) -> Callable[[], TokenText]:
        """What makes those of a prompt's choices."""
        # What marks a call must be seen, also where it is a special token.
        kept = self._kept_ids if request.tools else frozenset()
        ends = frozenset() if request.ignore_eos else model.eos_token_ids
        silent = frozenset() if request.include_stop else ends.union(request.stop_token_ids)
        new_stream = self.tokenizer.decode_streams(request.skip_special_tokens, kept, prompt)
        return lambda: TokenText(
            new_stream(),
            request.stop,
            include_stop=request.include_stop,
            min_tokens=request.min_tokens,
            silent=silent,
        )

    def _parser(self, request: GenerationRequest) -> ToolCallParser | None:
        use = request.tools
        if use is None:
            return None
        names = frozenset(tool.name for tool in use.callable)
        return ToolCallParser(self._tool_format.syntax, names, None if use.several else 1)

    def _closed(self, tenant: str, request_id: str, trace: RequestTrace) -> None:
        trace.end()
        self._under_way.closed(tenant, request_id)


def _tool_format(tokenizer: Tokenizer, name: str) -> ToolFormat:
    template, for_tools = tokenizer.chat_template, tokenizer.tool_template
    if template is None or for_tools is None:
        return tool_format("", False, name)
    return tool_format(for_tools.source, for_tools.takes_tools, name, template.takes_system)
