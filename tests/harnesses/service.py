#!/usr/bin/env python3
"""A stand-in for model services for testing coding-agent CLIs without network. Own code, stdlib only, loopback only.

    service.py FILE     listens on a port that it writes to FILE

Speaks enough of
  Anthropic   POST …/v1/messages (SSE and plain), …/v1/messages/count_tokens, GET …/v1/models, HEAD/GET anything
  OpenAI      POST …/v1/responses (SSE), …/v1/chat/completions (SSE and plain), GET …/v1/models
  Gemini      POST …/models/M:generateContent, :streamGenerateContent?alt=sse, :countTokens

Behavior: the first path element of the base URL, so that agents beside each other can have different ones:
  ANTHROPIC_BASE_URL=http://127.0.0.1:PORT/tool   → mode `tool`;   without a known first element: the default mode,
  which `curl -X POST http://127.0.0.1:PORT/_mode/NAME` sets (initially `ok`).
  A prompt may override: text `MODE[name]` in the *last user message*; `RUN[shell command]`, `WRITE[path]`, `ASK[question]`
  say what the tool call is to be (in mode ok they act like mode tool; `RUN[!command]` asks codex to leave its sandbox);
  `SAY[text]` is the answer.

A credential decides before any mode: one with `dead` in it is refused as in mode `401`, and one with `spent` in it has no quota left as in
mode `quota`, from its first request on for --spent seconds; the reset that it names is that moment.

Modes
  ok        a short streamed answer                       slow      streams a word each second, 60 of them
  tool      one tool call (RUN/WRITE/ASK or a default), then an answer
  loop      a tool call every turn (max turns)
  401       invalid key                                   403       permission denied
  429       rate limit, retry-after 20 s                  quota     quota exhausted, resets in 3 h (headers and body)
  credit    balance too low (HTTP 400 / 402 / 429)        529       overloaded (Anthropic 529, others 503)
  500       internal error                                404       model not found
  hang      accepts, never answers                        hangmid   headers and half an answer, then silence
  cut       half an answer, then the connection closes    garbage   200 and a stream of nonsense
  html      200 with an HTML page (captive portal)        long      prompt too long (400)
  flaky     529 twice for a credential, then as ok

Every request is a line of JSON in --log (t, mode, path, model, stream, auth, roles, tools, status, gone = client hung up).
The latest body of each endpoint is kept in --dump as NAME.json.
"""
import argparse, json, os, re, select, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MODES = "ok slow tool loop 401 403 429 quota credit 529 500 404 hang hangmid cut garbage html long flaky".split()
STATE = {"mode": "ok"}
FLAKY = {}
SPENT = {}
LOG_LOCK = threading.Lock()
ARGS = None
HANG_MAX = 900


def log(**kw):
    kw = {"t": time.strftime("%H:%M:%S") + f".{int(time.time()*1000)%1000:03d}", "at": time.time(), **kw}
    with LOG_LOCK, open(ARGS.log, "a") as f:
        f.write(json.dumps(kw) + "\n")


def text_of(content):
    """All text in a message's content, whichever of the APIs it is of."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(text_of(c) for c in content)
    if isinstance(content, dict):
        for k in ("text", "content", "parts", "output"):
            if k in content:
                return text_of(content[k])
    return ""


def fill(schema, hint=""):
    """Some value that satisfies a JSON schema, roughly."""
    if not isinstance(schema, dict):
        return "mock"
    for k in ("anyOf", "oneOf", "allOf"):
        if k in schema:
            return fill(schema[k][0], hint)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    t = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(t, list):
        t = [x for x in t if x != "null"][0]
    t = str(t).lower()
    if t == "object":
        props = schema.get("properties", {})
        return {k: fill(v, k) for k, v in props.items() if k in schema.get("required", props)}
    if t == "array":
        return [fill(schema.get("items", {}), hint)] if schema.get("minItems", 0) else []
    if t in ("number", "integer"):
        return max(1, schema.get("minimum", 1))
    if t == "boolean":
        return False
    return "mock " + hint


SHELLS = ["bash", "shell", "run_shell_command", "exec_command", "shell_command", "local_shell", "execute", "run_command", "runcommand"]
WRITERS = ["write", "write_file", "writefile", "create_file", "strreplacefile"]
ASKERS = ["askuserquestion", "ask_user", "ask_user_question", "question", "request_user_input"]


def pick(tools, wish):
    """(name, arguments) of a tool call. tools: [(name, schema, freeform)]"""
    kind, arg = wish
    order = {"run": SHELLS, "write": WRITERS, "ask": ASKERS}[kind]
    for want in order:
        for name, schema, freeform in tools:
            if name.lower() == want:
                props = (schema or {}).get("properties", {})
                req = (schema or {}).get("required", list(props))
                out = {}
                if kind == "run" and arg.startswith("!"):
                    arg, escalate = arg[1:], True
                else:
                    escalate = False
                for k, v in props.items():
                    low = k.lower()
                    if escalate and k == "sandbox_permissions":
                        out[k] = "require_escalated"
                        continue
                    if escalate and k == "justification":
                        out[k] = "the mock wants to"
                        continue
                    if kind == "run" and low in ("command", "cmd", "script"):
                        out[k] = ["bash", "-lc", arg] if v.get("type") == "array" else arg
                    elif kind == "write" and low in ("file_path", "path", "filepath", "absolute_path"):
                        out[k] = arg
                    elif kind == "write" and low in ("content", "contents", "text"):
                        out[k] = "written by the mock\n"
                    elif kind == "ask" and k == "questions":
                        item = v.get("items", {})
                        q = fill(item)
                        q["question"] = arg
                        q["header"] = "Mock"
                        q["options"] = [{"label": "Yes", "description": "yes"}, {"label": "No", "description": "no"}]
                        if "type" in item.get("properties", {}):
                            q["type"] = "choice"
                        q["multiSelect"] = False
                        out[k] = [{kk: vv for kk, vv in q.items() if kk in item.get("properties", {})}]
                    elif k in req:
                        out[k] = fill(v, k)
                return name, out
    return None


class Ask:
    """What is asked for, read out of any of the three APIs' bodies."""

    def __init__(self, api, body):
        self.api, self.body = api, body
        self.model = body.get("model", "")
        self.stream = bool(body.get("stream"))
        self.tools, self.last_is_result, self.user, self.roles, self.schema = [], False, "", [], None
        if api == "anthropic":
            for t in body.get("tools", []):
                self.tools.append((t.get("name", ""), t.get("input_schema", {}), False))
            for m in body.get("messages", []):
                kinds = [c.get("type") for c in m["content"] if isinstance(c, dict)] if isinstance(m["content"], list) else []
                self.roles.append(m["role"] + ("*" if "tool_result" in kinds else ""))
                if m["role"] == "user":
                    self.last_is_result = "tool_result" in kinds
                    if not self.last_is_result:
                        self.user = text_of(m["content"])
            fmt = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
            self.schema = fmt.get("schema")
        elif api == "chat":
            for t in body.get("tools") or []:
                f = t.get("function", t)
                self.tools.append((f.get("name", ""), f.get("parameters", {}), False))
            for m in body.get("messages", []):
                # Some put a reminder of their own after what their user says.
                said = self.user + "\n" if self.roles[-1:] == ["user"] else ""
                self.roles.append(m["role"])
                self.last_is_result = m["role"] == "tool"
                if m["role"] == "user":
                    self.user = said + text_of(m.get("content"))
            rf = body.get("response_format") or {}
            self.schema = (rf.get("json_schema") or {}).get("schema")
        elif api == "responses":
            for t in body.get("tools") or []:
                self.tools.append((t.get("name", t.get("type", "")), t.get("parameters", {}), t.get("type") == "custom"))
            inp = body.get("input", [])
            if isinstance(inp, str):
                self.user = inp
                inp = []
            for m in inp:
                ty = m.get("type", "message")
                self.roles.append(m.get("role", ty))
                self.last_is_result = ty.endswith("_output")
                if m.get("role") == "user":
                    self.user = text_of(m.get("content"))
            self.schema = ((body.get("text") or {}).get("format") or {}).get("schema")
        elif api == "gemini":
            for group in body.get("tools") or []:
                for t in group.get("functionDeclarations", []):
                    self.tools.append((t.get("name", ""), t.get("parametersJsonSchema") or t.get("parameters") or {}, False))
            for m in body.get("contents", []):
                parts = m.get("parts", [])
                result = any("functionResponse" in p for p in parts)
                self.roles.append(m.get("role", "user") + ("*" if result else ""))
                if m.get("role", "user") == "user":
                    self.last_is_result = result
                    if not result:
                        self.user = text_of(parts)
            g = body.get("generationConfig") or {}
            self.schema = g.get("responseJsonSchema") or g.get("responseSchema")

    def last(self, word):
        found = re.findall(word + r"\[([^\]]*)\]", self.user)
        return found[-1] if found else None

    def wish(self):
        for kind in ("run", "write", "ask"):
            got = self.last(kind.upper())
            if got is not None:
                return kind, got
        return None


class Gone(Exception):
    pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "mock"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.plain(200, {})

    def do_GET(self):
        path = urlsplit(self.path).path
        if path.endswith("/models"):
            names = ["gpt-5", "gpt-5-codex", "gpt-5.5-codex", "claude-sonnet-4-5", "mock-model"]
            log(path=self.path, get=True)
            return self.plain(200, {"object": "list", "data": [{"id": n, "object": "model", "type": "model", "display_name": n, "created_at": "2026-01-01T00:00:00Z"} for n in names], "has_more": False, "models": []})
        if path.startswith("/_mode"):
            return self.plain(200, {"mode": STATE["mode"]})
        log(path=self.path, get=True, status=404)
        self.plain(404, {"error": {"type": "not_found_error", "message": "mock has no " + path}})

    def do_POST(self):
        n = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(n) if n else self.read_chunked()
        path = urlsplit(self.path).path
        if path.startswith("/_mode/"):
            STATE["mode"] = path.split("/")[2]
            FLAKY.clear()
            return self.plain(200, {"mode": STATE["mode"]})
        mode = STATE["mode"]
        first = path.split("/")[1]
        if first in MODES:
            mode = first
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        api = ("anthropic" if path.endswith("/messages") else "chat" if path.endswith("/chat/completions")
               else "responses" if path.endswith("/responses") else "gemini" if ":generateContent" in path or ":streamGenerateContent" in path
               else None)
        auth = {k: (v[:12] + "…" + v[-4:]) for k, v in self.headers.items() if k.lower() in ("authorization", "x-api-key", "x-goog-api-key")}
        if path.endswith("/count_tokens") or path.endswith(":countTokens"):
            log(path=self.path, auth=auth)
            return self.plain(200, {"input_tokens": 100, "totalTokens": 100})
        if api is None:
            log(path=self.path, auth=auth, status=404, body=str(raw[:200]))
            return self.plain(404, {"error": {"type": "not_found_error", "message": "mock has no " + path}})
        ask = Ask(api, body)
        if api == "gemini":
            ask.model = path.split("/models/")[-1].split(":")[0]
            ask.stream = ":streamGenerateContent" in path
        if ARGS.dump:
            with open(os.path.join(ARGS.dump, api + ("-tools" if ask.tools else "") + ".json"), "wb") as f:
                f.write(raw)
        mode = ask.last("MODE") or mode
        self.credential = credential = " ".join(self.headers.get(k) or "" for k in ("authorization", "x-api-key", "x-goog-api-key"))
        self.reset = int(time.time()) + 3 * 3600
        if "dead" in credential:
            mode = "401"
        elif "spent" in credential:
            self.reset = SPENT.setdefault(credential, int(time.time()) + ARGS.spent)
            if time.time() < self.reset:
                mode = "quota"
        info = dict(mode=mode, path=self.path, model=ask.model, stream=ask.stream, auth=auth, roles=",".join(ask.roles)[-60:], tools=len(ask.tools),
                    schema=bool(ask.schema), user=ask.user[-80:], ua=(self.headers.get("user-agent") or "")[:50])
        t0 = time.time()
        try:
            status = self.answer(mode, ask)
            log(**info, status=status, took=round(time.time() - t0, 2))
        except (BrokenPipeError, ConnectionResetError, Gone):
            log(**info, gone=True, took=round(time.time() - t0, 2))
            self.close_connection = True

    def read_chunked(self):
        if "chunked" not in (self.headers.get("transfer-encoding") or ""):
            return b""
        out = b""
        while True:
            size = int(self.rfile.readline().strip() or b"0", 16)
            if not size:
                self.rfile.readline()
                return out
            out += self.rfile.read(size)
            self.rfile.readline()

    def plain(self, status, body, headers=(), ctype="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", ctype)
        self.send_header("content-length", str(len(data)))
        for k, v in headers:
            self.send_header(k, str(v))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        return status

    def start_sse(self, headers=()):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.send_header("request-id", "req_mock")
        for k, v in headers:
            self.send_header(k, str(v))
        self.end_headers()
        self.close_connection = True

    def sse(self, data, event=None):
        out = (f"event: {event}\n" if event else "") + "data: " + (data if isinstance(data, str) else json.dumps(data)) + "\n\n"
        self.wfile.write(out.encode())
        self.wfile.flush()

    def wait_gone(self, seconds):
        end = time.time() + seconds
        while time.time() < end:
            r, _, _ = select.select([self.connection], [], [], min(1, max(0, end - time.time())))
            if r:
                try:
                    if not self.connection.recv(1, 2):
                        raise Gone()
                except OSError:
                    raise Gone()
                time.sleep(0.2)

    # -- errors ------------------------------------------------------------------------------------------------------
    def error(self, mode, api):
        reset = self.reset
        left = max(0, reset - int(time.time()))
        wait = f"{left // 3600}h{left % 3600 // 60}m{left % 60}s"
        if api == "anthropic":
            table = {
                "401": (401, "authentication_error", "invalid x-api-key", []),
                "403": (403, "permission_error", "Your API key does not have permission to use the specified resource.", []),
                "404": (404, "not_found_error", "model: mock-model", []),
                "429": (429, "rate_limit_error", "This request would exceed your organization's rate limit of 50,000 input tokens per minute.", [("retry-after", 20), ("anthropic-ratelimit-requests-remaining", 0)]),
                "quota": (429, "rate_limit_error", "This request would exceed your account's rate limit. Please try again later.", [
                    ("anthropic-ratelimit-unified-status", "rejected"), ("anthropic-ratelimit-unified-reset", reset),
                    ("anthropic-ratelimit-unified-representative-claim", "five_hour"), ("anthropic-ratelimit-unified-fallback", "unavailable"),
                    ("anthropic-ratelimit-unified-5h-status", "rejected"), ("anthropic-ratelimit-unified-5h-reset", reset), ("anthropic-ratelimit-unified-5h-utilization", "1.0"),
                    ("anthropic-ratelimit-unified-7d-status", "allowed"), ("anthropic-ratelimit-unified-7d-reset", reset + 300000), ("anthropic-ratelimit-unified-7d-utilization", "0.4"),
                    ("anthropic-ratelimit-unified-overage-status", "rejected"), ("anthropic-ratelimit-unified-overage-disabled-reason", "org_level_disabled"), ("retry-after", left), ("x-should-retry", "false")]),
                "credit": (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.", []),
                "529": (529, "overloaded_error", "Overloaded", []),
                "500": (500, "api_error", "Internal server error", []),
                "long": (400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum", []),
            }
            status, kind, msg, hdr = table[mode]
            return self.plain(status, {"type": "error", "error": {"type": kind, "message": msg}, "request_id": "req_mock"}, [("request-id", "req_mock"), *hdr])
        if api == "gemini":
            q = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests", "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaDimensions": {"location": "global", "model": "gemini-2.5-pro"}, "quotaValue": "100"}]}
            table = {
                "401": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}}]),
                "403": (403, "PERMISSION_DENIED", "Permission denied on resource project mock.", []),
                "404": (404, "NOT_FOUND", "models/mock-model is not found for API version v1beta", []),
                "429": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota). Please retry in 20s.", [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20s"}]),
                "quota": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details. Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 100. Please retry in " + wait + ".", [q, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{left}s"}]),
                "credit": (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.", []),
                "529": (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", []),
                "500": (500, "INTERNAL", "An internal error has occurred.", []),
                "long": (400, "INVALID_ARGUMENT", "The input token count (1250000) exceeds the maximum number of tokens allowed (1048576).", []),
            }
            status, kind, msg, details = table[mode]
            return self.plain(status, {"error": {"code": status, "message": msg, "status": kind, "details": details}})
        table = {
            "401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-mock. You can find your API key at https://platform.openai.com/account/api-keys.", []),
            "403": (403, "invalid_request_error", "unsupported_country_region_territory", "Country, region, or territory not supported", []),
            "404": (404, "invalid_request_error", "model_not_found", "The model `mock-model` does not exist or you do not have access to it.", []),
            "429": (429, "tokens", "rate_limit_exceeded", "Rate limit reached for gpt-5 in organization org-mock on tokens per min (TPM): Limit 30000, Used 30000, Requested 500. Please try again in 20s.", [("retry-after", 20), ("x-ratelimit-remaining-requests", 0), ("x-ratelimit-reset-requests", "20s")]),
            "quota": (429, "usage_limit_reached", None, "The usage limit has been reached", [("x-codex-primary-used-percent", "100.0"), ("x-codex-primary-window-minutes", 300), ("x-codex-primary-reset-at", reset), ("retry-after", left)]),
            "credit": (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.", []),
            "529": (503, "server_error", "server_is_overloaded", "The server is currently overloaded. Please try again later.", []),
            "500": (500, "server_error", None, "The server had an error while processing your request.", []),
            "long": (400, "invalid_request_error", "context_length_exceeded", "Your input exceeds the context window of this model. Please adjust your input and try again.", []),
        }
        status, kind, code, msg, hdr = table[mode]
        e = {"message": msg, "type": kind, "param": None, "code": code}
        if mode == "quota":
            e.update(plan_type="plus", resets_at=reset, resets_in_seconds=left)
        return self.plain(status, {"error": e}, hdr)

    # -- the answer --------------------------------------------------------------------------------------------------
    def answer(self, mode, ask):
        if mode == "flaky":
            FLAKY[self.credential] = FLAKY.get(self.credential, 0) + 1
            if FLAKY[self.credential] <= 2:
                return self.error("529", ask.api)
            mode = "ok"
        if mode in ("401", "403", "404", "429", "quota", "credit", "529", "500", "long"):
            return self.error(mode, ask.api)
        if mode == "hang":
            self.wait_gone(HANG_MAX)
            return 0
        if mode == "html":
            return self.plain(200, b"<html><body>Sign in to the hotel network</body></html>", ctype="text/html")
        if mode == "garbage":
            self.start_sse()
            for _ in range(3):
                self.sse("{\"type\": \"mess", "message_start")
                self.sse("\x00\x01 not json", "content_block_delta")
            return 200
        call = None
        if ask.tools and not ask.schema:
            wish = ask.wish()
            if mode == "loop":
                call = pick(ask.tools, wish or ("run", "date +%s%N >> loop.txt"))
            elif not ask.last_is_result and (wish or mode == "tool"):
                call = pick(ask.tools, wish or ("run", "echo mock was here >> mock.txt; echo tool-output"))
        say = ask.last("SAY") or ("Mock answer: the tool has run." if ask.last_is_result else "Mock answer: all is well.")
        if ask.schema:
            say = json.dumps(fill(ask.schema))
        words = re.findall(r"\S+\s*", say) or [""]
        if mode == "slow":
            words = [f"word{i} " for i in range(60)]
        half = mode in ("hangmid", "cut")
        if half:
            words, call = words[:2], None
        try:
            return getattr(self, "say_" + ask.api)(mode, ask, words, call)
        except Half:
            if mode == "hangmid":
                self.wait_gone(HANG_MAX)
            return 200

    def each(self, mode, words):
        for w in words:
            if mode == "slow":
                self.wait_gone(1)
            yield w
        if mode in ("hangmid", "cut"):
            raise Half()

    def say_anthropic(self, mode, ask, words, call):
        usage = {"input_tokens": 1200, "cache_creation_input_tokens": 300, "cache_read_input_tokens": 4000, "output_tokens": 1}
        mid = "msg_" + uuid.uuid4().hex[:20]
        blocks = [{"type": "text", "text": "".join(words)}]
        if call:
            blocks.append({"type": "tool_use", "id": "toolu_" + uuid.uuid4().hex[:20], "name": call[0], "input": call[1]})
        stop = "tool_use" if call else "end_turn"
        msg = {"id": mid, "type": "message", "role": "assistant", "model": ask.model, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        if not ask.stream:
            return self.plain(200, {**msg, "content": blocks, "stop_reason": stop, "usage": {**usage, "output_tokens": 42}})
        self.start_sse([("anthropic-ratelimit-unified-status", "allowed"), ("anthropic-ratelimit-unified-reset", int(time.time()) + 9000), ("anthropic-ratelimit-unified-representative-claim", "five_hour")])
        self.sse({"type": "message_start", "message": msg}, "message_start")
        self.sse({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, "content_block_start")
        for w in self.each(mode, words):
            self.sse({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}}, "content_block_delta")
        self.sse({"type": "content_block_stop", "index": 0}, "content_block_stop")
        if call:
            b = blocks[1]
            self.sse({"type": "content_block_start", "index": 1, "content_block": {**b, "input": {}}}, "content_block_start")
            self.sse({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": json.dumps(b["input"])}}, "content_block_delta")
            self.sse({"type": "content_block_stop", "index": 1}, "content_block_stop")
        self.sse({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {**usage, "output_tokens": 42}}, "message_delta")
        self.sse({"type": "message_stop"}, "message_stop")
        return 200

    def say_chat(self, mode, ask, words, call):
        base = {"id": "chatcmpl-" + uuid.uuid4().hex[:12], "created": int(time.time()), "model": ask.model}
        usage = {"prompt_tokens": 1200, "completion_tokens": 42, "total_tokens": 1242, "prompt_tokens_details": {"cached_tokens": 400}}
        tc = [{"index": 0, "id": "call_" + uuid.uuid4().hex[:12], "type": "function", "function": {"name": call[0], "arguments": json.dumps(call[1])}}] if call else None
        stop = "tool_calls" if call else "stop"
        if not ask.stream:
            m = {"role": "assistant", "content": "".join(words)}
            if tc:
                m["tool_calls"] = tc
            return self.plain(200, {**base, "object": "chat.completion", "choices": [{"index": 0, "message": m, "finish_reason": stop}], "usage": usage})
        self.start_sse()
        chunk = lambda delta, fin=None, **kw: self.sse({**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": fin}], **kw})
        chunk({"role": "assistant", "content": ""})
        for w in self.each(mode, words):
            chunk({"content": w})
        if tc:
            chunk({"tool_calls": tc})
        chunk({}, stop)
        self.sse({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.sse("[DONE]")
        return 200

    def say_responses(self, mode, ask, words, call):
        rid, seq = "resp_" + uuid.uuid4().hex[:16], [0]
        full = "".join(words)
        msg = {"type": "message", "id": "msg_" + uuid.uuid4().hex[:12], "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": full, "annotations": []}]}
        out = [msg]
        if call:
            out.append({"type": "function_call", "id": "fc_" + uuid.uuid4().hex[:12], "call_id": "call_" + uuid.uuid4().hex[:12], "name": call[0], "arguments": json.dumps(call[1]), "status": "completed"})
        usage = {"input_tokens": 1200, "input_tokens_details": {"cached_tokens": 400}, "output_tokens": 42, "output_tokens_details": {"reasoning_tokens": 10}, "total_tokens": 1242}
        resp = {"id": rid, "object": "response", "created_at": int(time.time()), "model": ask.model, "status": "in_progress", "output": [], "parallel_tool_calls": False, "tools": [], "tool_choice": "auto"}
        done = {**resp, "status": "completed", "output": out, "usage": usage}
        if not ask.stream:
            return self.plain(200, done)
        self.start_sse([("x-codex-primary-used-percent", "12.5"), ("x-codex-primary-window-minutes", "300"), ("x-codex-primary-reset-at", int(time.time()) + 9000)])

        def ev(kind, **kw):
            self.sse({"type": kind, "sequence_number": seq[0], **kw}, kind)
            seq[0] += 1
        ev("response.created", response=resp)
        ev("response.in_progress", response=resp)
        ev("response.output_item.added", output_index=0, item={**msg, "status": "in_progress", "content": []})
        ev("response.content_part.added", item_id=msg["id"], output_index=0, content_index=0, part={"type": "output_text", "text": "", "annotations": []})
        for w in self.each(mode, words):
            ev("response.output_text.delta", item_id=msg["id"], output_index=0, content_index=0, delta=w)
        ev("response.output_text.done", item_id=msg["id"], output_index=0, content_index=0, text=full)
        ev("response.content_part.done", item_id=msg["id"], output_index=0, content_index=0, part=msg["content"][0])
        ev("response.output_item.done", output_index=0, item=msg)
        if call:
            ev("response.output_item.added", output_index=1, item={**out[1], "arguments": "", "status": "in_progress"})
            ev("response.function_call_arguments.delta", item_id=out[1]["id"], output_index=1, delta=out[1]["arguments"])
            ev("response.function_call_arguments.done", item_id=out[1]["id"], output_index=1, arguments=out[1]["arguments"])
            ev("response.output_item.done", output_index=1, item=out[1])
        ev("response.completed", response=done)
        return 200

    def say_gemini(self, mode, ask, words, call):
        usage = {"promptTokenCount": 1200, "candidatesTokenCount": 42, "totalTokenCount": 1252, "thoughtsTokenCount": 10, "cachedContentTokenCount": 400}
        part = [{"functionCall": {"name": call[0], "args": call[1]}}] if call else []
        wrap = lambda parts, fin=None, **kw: {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **({"finishReason": fin} if fin else {})}], "modelVersion": ask.model, "responseId": "mock", **kw}
        if not ask.stream:
            return self.plain(200, wrap([{"text": "".join(words)}, *part], "STOP", usageMetadata=usage))
        self.start_sse()
        for w in self.each(mode, words):
            self.sse(wrap([{"text": w}]))
        self.sse(wrap(part or [{"text": ""}], "STOP", usageMetadata=usage))
        return 200


class Half(Exception):
    pass


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("file")
    p.add_argument("--log", default="/dev/null")
    p.add_argument("--dump", default="")
    p.add_argument("--spent", type=int, default=20)
    ARGS = p.parse_args()
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 64
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with open(ARGS.file + ".new", "w") as f:
        f.write(str(server.server_port))
    os.rename(ARGS.file + ".new", ARGS.file)
    server.serve_forever()
