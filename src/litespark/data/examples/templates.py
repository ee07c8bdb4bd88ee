"""Chat templates by name. All mark what the assistant writes, with the token that ends its turn."""

from litespark.data.local_files import path_from

_CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

_LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

# for a tokenizer without tokens of its own for chats: its EOS alone ends what the assistant writes
_PLAIN = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- 'Assistant:\\n' }}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{{- '\\n' }}
{%- else %}
{{- message['role'] | capitalize + ':\\n' + message['content'] + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant:\\n' }}
{%- endif %}"""

NAMED = {"chatml": _CHATML, "llama3": _LLAMA3, "plain": _PLAIN}


def template_of(setting: str) -> str:
    """The template that `data.chat_template` names; a ValueError where it is neither a name nor a file of text."""
    if setting in NAMED:
        return NAMED[setting]
    path = path_from(setting)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"data.chat_template={setting}: got no template ({error}), expected {', '.join(NAMED)}, or a file of "
            "Jinja; name one of them, or set it to null for the tokenizer's own"
        ) from error
