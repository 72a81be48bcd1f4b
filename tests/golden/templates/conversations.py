"""The conversations that every chat template is rendered with: arguments of apply_chat_template."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.\nReturns \"degrees\" & sky.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City name, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "factor": {"type": "number", "default": 1.0},
            },
            "required": ["city"],
        },
    },
}

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search documents",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for"},
                "filters": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "field": {"type": "string"},
                            "values": {"type": "array", "items": {"type": "string"}},
                        },
                        "required": ["field"],
                    },
                },
                "options": {
                    "type": "object",
                    "properties": {"fuzzy": {"type": "boolean"}, "limit": {"type": ["integer", "null"]}},
                },
            },
            "required": ["query", "filters"],
        },
        "strict": True,
    },
}

NO_PARAMETERS = {
    "type": "function",
    "function": {"name": "now", "description": "Current time", "parameters": {"type": "object", "properties": {}}},
}

TOOLS = [WEATHER, SEARCH, NO_PARAMETERS]

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
HELLO = {"role": "user", "content": "Hello, how are you?"}
FINE = {"role": "assistant", "content": "I'm fine, thank you!"}
MORE = {"role": "user", "content": "What is 2 + 2?"}
ODD = "Ünïcödé 日本語 🎉 \"double\" 'single' <b>&amp;</b> \\ back {{ braces }} {% tag %}\ttab\u00a0nbsp\u2028"


def call(name, arguments, id=None):
    out = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if id:
        out["id"] = id
    return out


CALL = call("get_weather", {"city": "Zürich", "unit": "celsius", "days": 3, "factor": 2.5, "now": True}, "abcdef123")
CALL_TEXT = call("get_weather", '{"city": "Paris", "days": 2}', "call00001")
CALL_DEEP = call(
    "search",
    {"query": "a \"b\" <c>", "filters": [{"field": "x", "values": ["1", "é"]}], "options": {"limit": None}},
    "call00002",
)


def tool(content, name="get_weather", id="abcdef123"):
    return {"role": "tool", "content": content, "name": name, "tool_call_id": id}


ASK = {"role": "user", "content": "What's the weather in Zürich?"}
THOUGHT = {"role": "assistant", "content": "The answer is 4.", "reasoning_content": "Two and two\nmake four."}

RAW = [
    ("simple", [HELLO], {}),
    ("system", [SYSTEM, HELLO], {}),
    ("turns", [HELLO, FINE, MORE], {}),
    ("system turns", [SYSTEM, HELLO, FINE, MORE, {"role": "assistant", "content": "4"}], {}),
    ("tools", [HELLO], {"tools": TOOLS}),
    ("system tools", [SYSTEM, HELLO, FINE, MORE], {"tools": [WEATHER]}),
    ("tool call", [SYSTEM, ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, tool("21 °C, sunny")],
     {"tools": TOOLS}),
    ("tool call null content",
     [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, tool('{"temp": 21}'), FINE, MORE],
     {"tools": [WEATHER]}),
    ("tool call text arguments",
     [ASK, {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL_TEXT]}, tool("ok", id="call00001")],
     {"tools": [WEATHER]}),
    ("two tool calls",
     [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL_DEEP]}, tool("21"),
      tool("none found", "search", "call00002"), {"role": "assistant", "content": "It is 21 °C."}, MORE],
     {"tools": TOOLS}),
    ("tool call at the end", [ASK, {"role": "assistant", "tool_calls": [CALL]}], {"tools": TOOLS}),
    ("tool call without type",
     [ASK, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}, tool("x")], {}),
    ("tool result parts",
     [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]},
      {"role": "tool", "tool_call_id": "abcdef123", "content": [{"type": "text", "text": "part"}]}], {"tools": TOOLS}),
    ("tool result object",
     [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]},
      {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": {"temp": 21, "ok": True}}],
     {"tools": TOOLS}),
    ("orphan tool result", [ASK, tool("21")], {"tools": TOOLS}),
    ("reasoning", [MORE, THOUGHT, {"role": "user", "content": "And 3 + 3?"}], {}),
    ("reasoning last", [SYSTEM, MORE, THOUGHT], {}),
    ("reasoning tool call",
     [ASK, {"role": "assistant", "content": "", "reasoning_content": "I should call.", "tool_calls": [CALL]},
      tool("21 °C")], {"tools": TOOLS}),
    ("thinking field",
     [MORE, {"role": "assistant", "content": "4", "thinking": "easy"}, {"role": "user", "content": "sure?"}], {}),
    ("thinking off", [SYSTEM, MORE], {"enable_thinking": False, "thinking": False}),
    ("thinking on", [SYSTEM, MORE, THOUGHT, HELLO], {"enable_thinking": True, "thinking": True}),
    ("think tags",
     [MORE, {"role": "assistant", "content": "<think>\nadd them\n</think>\n\nIt is 4."}, HELLO], {}),
    ("effort", [SYSTEM, MORE], {"reasoning_effort": "high", "tools": [WEATHER]}),
    ("effort low", [MORE], {"reasoning_effort": "low", "thinking_budget": 512}),
    ("keep reasoning", [MORE, THOUGHT, HELLO, FINE, MORE],
     {"clear_thinking": False, "preserve_thinking": True, "truncate_history_thinking": False}),
    ("parts", [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
               {"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]},
               {"role": "assistant", "content": [{"type": "text", "text": "Three."}]}, HELLO], {}),
    ("image", [{"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What?"}]}],
     {}),
    ("image url", [SYSTEM, {"role": "user", "content": [
        {"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
        {"type": "video", "video": "v.mp4"}]}], {"add_vision_id": True}),
    ("odd text", [{"role": "system", "content": ODD}, {"role": "user", "content": ODD},
                  {"role": "assistant", "content": ODD}, {"role": "user", "content": ODD}], {}),
    ("odd tool", [ASK, {"role": "assistant", "content": ODD, "tool_calls": [call("f", {"x": ODD, ODD: 1}, "123456789")]},
                  tool(ODD, "f", "123456789")],
     {"tools": [{"type": "function", "function": {"name": "f", "description": ODD,
                                                  "parameters": {"type": "object", "properties": {
                                                      ODD: {"type": "string", "description": ODD}}}}}]}),
    ("blank text", [{"role": "system", "content": "  \n padded \n\n"}, {"role": "user", "content": "\n hi \t\n"},
                    {"role": "assistant", "content": "  yes  \n"}, {"role": "user", "content": "  "}], {}),
    ("empty text", [{"role": "system", "content": ""}, {"role": "user", "content": ""},
                    {"role": "assistant", "content": ""}, {"role": "user", "content": ""}], {}),
    ("null content", [{"role": "user", "content": None}], {}),
    ("no content", [{"role": "user"}], {}),
    ("no messages", [], {}),
    ("assistant first", [FINE, HELLO], {}),
    ("two users", [HELLO, MORE], {}),
    ("system late", [HELLO, FINE, SYSTEM, MORE], {}),
    ("developer", [{"role": "developer", "content": "Use Lua."}, HELLO], {"tools": [WEATHER]}),
    ("unknown role", [HELLO, {"role": "narrator", "content": "Meanwhile"}], {}),
    ("no role", [{"content": "x"}], {}),
    ("documents", [SYSTEM, HELLO], {"documents": [
        {"title": "One", "text": "First text", "doc_id": 1, "content": "First text"},
        {"title": "Zwei", "text": "Zweiter Text", "doc_id": "2", "content": "Zweiter Text"}]}),
    ("legacy tools", [HELLO], {"tools": [{"name": "f", "description": "d", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": []}}]}),
    ("builtin tools", [SYSTEM, HELLO], {"builtin_tools": ["browser", "python", "wolfram_alpha"],
                                        "tools_in_user_message": False, "tools": [WEATHER]}),
    ("date", [HELLO], {"date_string": "01 Jan 2030", "model_identity": "You are X.", "tool_choice": "auto"}),
    ("names", [{"role": "user", "name": "ann", "content": "Hi"}, {"role": "assistant", "name": "bob", "content": "Yo"},
               {"role": "user", "name": "ann", "content": "Bye"}], {}),
    ("continue", [HELLO, {"role": "assistant", "content": "I am"}],
     {"continue_final_message": True, "add_generation_prompt": False}),
    ("continue blank", [SYSTEM, HELLO, {"role": "assistant", "content": "I am \n"}],
     {"continue_final_message": True, "add_generation_prompt": False}),
    ("continue parts", [HELLO, {"role": "assistant", "content": [{"type": "text", "text": "I am"}]}],
     {"continue_final_message": True, "add_generation_prompt": False}),
    ("continue reasoning", [HELLO, {"role": "assistant", "content": "", "reasoning_content": "Let me"}],
     {"continue_final_message": "reasoning_content", "add_generation_prompt": False}),
    ("continue nothing", [HELLO, {"role": "assistant", "tool_calls": [CALL]}],
     {"continue_final_message": True, "add_generation_prompt": False}),
    ("schema", [MORE], {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
                        "json_schema": '{"type": "object"}', "tools": [SEARCH]}),
    ("citations", [SYSTEM, HELLO], {"citation_mode": "fast", "grounding": "enabled", "controls": {"length": "long"},
                                    "available_tools": [WEATHER]}),
    ("last turn tools", [SYSTEM, ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, tool("21"), FINE,
                         ASK, {"role": "assistant", "content": "again", "tool_calls": [CALL_DEEP]},
                         tool("x", "search", "call00002")], {"tools": TOOLS, "enable_thinking": True}),
]

CASES = []
for _name, _messages, _extra in RAW:
    for _prompt in (True, False):
        if "add_generation_prompt" in _extra and _prompt != _extra["add_generation_prompt"]:
            continue
        CASES.append({"name": _name + (" +prompt" if _prompt else ""), "messages": _messages,
                      "add_generation_prompt": _prompt, "bos_token": "<s>", "eos_token": "</s>", **_extra})
