// Asks a folder questions through transformers.js and prints the new ids of every answer.
// node ask_transformers_js.mjs FOLDER QUESTIONS.json DTYPE TOKENS   (DTYPE "default" is what config.json says)
import { readFileSync } from 'node:fs';
import { AutoModelForImageTextToText, AutoProcessor, RawImage, env } from '@huggingface/transformers';

const [folder, questions, dtype, tokens] = process.argv.slice(2);
env.allowRemoteModels = false;
const processor = await AutoProcessor.from_pretrained(folder);
const model = await AutoModelForImageTextToText.from_pretrained(folder, dtype === 'default' ? {} : { dtype });
for (const { text, image } of JSON.parse(readFileSync(questions, 'utf8'))) {
  const content = [...(image ? [{ type: 'image' }] : []), { type: 'text', text }];
  const prompt = processor.apply_chat_template([{ role: 'user', content }], { add_generation_prompt: true });
  const options = { add_special_tokens: false };
  const inputs = image ? await processor(await RawImage.read(image), prompt, options) : processor.tokenizer(prompt, options);
  const ids = await model.generate({ ...inputs, max_new_tokens: Number(tokens), do_sample: false });
  console.log(JSON.stringify(ids.tolist()[0].slice(inputs.input_ids.dims[1]).map(Number)));
}
