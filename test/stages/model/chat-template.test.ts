/** Conversations as their templates put them, wherever a folder keeps the template; and every way in which there is none. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ChatTemplate, type Message } from '../../../stages/model/chat-template.js'
import { temporary } from '../../helpers.js'

/** In the manner of ChatML: every message between two marks. */
const marks = `{%- for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}`

/** In the manner of Llama 3: a header a message, the text trimmed; the beginning of the text is the template's own. */
const headers = `{{- bos_token }}
{%- for m in messages %}
  {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + (m['content'] | trim) + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}`

/** In the manner of Llama 2 and Mistral: no system message, and turns that alternate. */
const turns = `{{ bos_token }}{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns of user and assistant must alternate') }}{% endif %}
{%- if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}
{%- endfor %}`

const talk: Message[] = [
  { role: 'system', content: ' Be brief. ' },
  { role: 'user', content: 'How many bricks?\n' },
  { role: 'assistant', content: 'Five.' },
  { role: 'user', content: '{{ 1 + 1 }} <b>&amp;</b>' },
]

function folder(t: Test, config: object | string | undefined, files: Record<string, string> = {}): string {
  const path = temporary(t)
  if (config !== undefined)
    writeFileSync(
      join(path, 'tokenizer_config.json'),
      typeof config === 'string' ? config : JSON.stringify({ bos_token: '<s>', eos_token: '</s>', ...config }),
    )
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text)
  return path
}
const render = async (path: string, messages: readonly Message[] = talk, file?: string): Promise<string | undefined> =>
  (await ChatTemplate.open(path, file))?.render(messages)

t.test('templates of three manners', async t => {
  t.equal(
    await render(folder(t, { chat_template: marks })),
    '<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHow many bricks?\n<|im_end|>\n<|im_start|>assistant\nFive.<|im_end|>\n' +
      '<|im_start|>user\n{{ 1 + 1 }} <b>&amp;</b><|im_end|>\n<|im_start|>assistant\n',
  )
  const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`
  t.equal(
    await render(folder(t, { chat_template: headers, bos_token: { __type: 'AddedToken', content: '<|begin_of_text|>' } })),
    `<|begin_of_text|>${header('system')}Be brief.<|eot_id|>${header('user')}How many bricks?<|eot_id|>` +
      `${header('assistant')}Five.<|eot_id|>${header('user')}{{ 1 + 1 }} <b>&amp;</b><|eot_id|>${header('assistant')}`,
  )
  t.equal(
    await render(folder(t, { chat_template: turns }), talk.slice(1)),
    '<s>[INST] How many bricks?\n [/INST] Five.</s>[INST] {{ 1 + 1 }} <b>&amp;</b> [/INST]',
  )
})

t.test('what transformers shows a template: no tools, no documents; ranges as in Python', async t => {
  for (const [template, text] of [
    ['{% if tools is not none %}tools{% else %}plain{% endif %}', 'plain'],
    ['{% if documents is not none %}documents{% else %}plain{% endif %}', 'plain'],
    ['{{ range(3) | join }} {{ range(2, 8, 3) | join }} {{ range(3, 0, -2) | join }} {{ range(2, 1) | length }}', '012 25 31 0'],
    ['{% macro count(n) %}{% for i in range(n) %}{{ i }}{% endfor %}{% endmacro %}{{ count(4) }}', '0123'],
    ["{% set range = 'mine' %}{{ range }} {{ {'range': 1}.range }}", 'mine 1'],
  ] as const)
    t.equal(await render(folder(t, { chat_template: template })), text)
})

t.test('where it is: a file given, a file of the folder, one of several by name', async t => {
  const short = (text: string) => `${text}{{ messages[0].content }}`
  const path = folder(t, { chat_template: short('config') }, { 'chat_template.jinja': short('file'), 'other.jinja': short('given') })
  t.equal(await render(path, talk.slice(1, 2)), 'fileHow many bricks?\n')
  t.equal(await render(path, talk.slice(1, 2), join(path, 'other.jinja')), 'givenHow many bricks?\n')
  const list = [
    { name: 'tool_use', template: short('tools') },
    { name: 'default', template: short('usual') },
  ]
  t.equal(await render(folder(t, { chat_template: list }), talk.slice(1, 2)), 'usualHow many bricks?\n')
  t.equal(await render(folder(t, { chat_template: [list[0]] }), talk.slice(1, 2)), 'toolsHow many bricks?\n', 'the only one')
  t.equal((await ChatTemplate.open(path))?.end, '</s>')
})

t.test('no template', async t => {
  for (const path of [folder(t, {}), folder(t, undefined), folder(t, { chat_template: null })])
    t.equal(await ChatTemplate.open(path), undefined)
  t.match(
    ChatTemplate.missing('models/base').text,
    /^models\/base\n {2}the model has no chat template: .*\n {2}Give one with --template FILE/,
  )
})

t.test('mistakes are sentences', async t => {
  const several = ['a', 'b'].map(name => ({ name, template: 'x' }))
  for (const [path, message] of [
    [folder(t, { chat_template: '{% if %}' }), /^the chat template is no valid Jinja: .*\.$/],
    [folder(t, { chat_template: 'x {{' }), /^the chat template is no valid Jinja: it ends too soon\.$/],
    [folder(t, { chat_template: several }), /one named "default", and found "a", "b"\.$/],
    [folder(t, { chat_template: 7 }), /expected "chat_template" to be a text/],
    [folder(t, '{'), /is not valid JSON/],
    [folder(t, '[]'), /expected a JSON object/],
    [folder(t, {}, { 'chat_template.jinja': 'x'.repeat(2 ** 20 + 1) }), /has 1048577 bytes; 1048576 is the most/],
  ] as const) {
    await t.rejects(ChatTemplate.open(path), { name: 'PipeError', message })
  }
  await t.rejects(ChatTemplate.open(folder(t, {}), 'nowhere.jinja'), { message: 'expected a chat template and found no such file.' })
  await t.rejects(render(folder(t, { chat_template: turns }), talk.slice(2)), {
    name: 'PipeError',
    message: 'the chat template refuses this conversation: turns of user and assistant must alternate.',
  })
  await t.rejects(render(folder(t, { chat_template: '{{ messages[0].content.nothing() }}' })), {
    name: 'PipeError',
    message: /^the chat template refuses this conversation: /,
  })
  const endless = [
    '{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}',
    '{% if true %}{% for a in range(10000) %}{% for b in range(10000) if b < 0 %}{% endfor %}{% endfor %}{% endif %}',
    '{% macro two(n) %}{% if n > 0 %}{{ two(n - 1) }}{{ two(n - 1) }}{% endif %}{% endmacro %}{{ two(40) }}',
  ]
  for (const text of endless) {
    await t.rejects(render(folder(t, { chat_template: text })), {
      name: 'PipeError',
      message: 'the chat template refuses this conversation: it has not ended after a second.',
    })
  }
  for (const [numbers, most] of [
    ['200000000', '200000000 numbers; 100000 is the most'],
    ['5, 0, -1 / 30000', '150000 numbers; 100000 is the most'],
    ['0, 1, 0', 'Infinity numbers; 100000 is the most'],
  ]) {
    await t.rejects(render(folder(t, { chat_template: `{% for i in range(${numbers}) %}x{% endfor %}` })), {
      name: 'PipeError',
      message: `the chat template refuses this conversation: a range has ${most}.`,
    })
  }
  await t.rejects(render(folder(t, { chat_template: '{% macro again(n) %}{{ again(n) }}{% endmacro %}{{ again(1) }}' })), {
    name: 'PipeError',
    message: /^the chat template refuses this conversation: .*\.$/,
  })
  await t.rejects(render(folder(t, { chat_template: '{{ messages.none }}' })), {
    name: 'PipeError',
    message: 'the chat template makes an empty text of this conversation.',
  })
})
