// What the @openfeature/flagd-core in a folder answers: `node sdk_answers.cjs FOLDER`, question and answer as JSON on standard input and output.
// {"document": "text of a flagd file", "flags": ["name"], "contexts": [{"targetingKey": "unit"}]} -> {"version": "4.0.1", "answers": {"name": ["variant"]}}
const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');

const folder = path.resolve(process.argv[2]);
const { FlagdCore } = createRequire(path.join(folder, 'here.js'))('@openfeature/flagd-core');
const { version } = JSON.parse(fs.readFileSync(path.join(folder, 'node_modules/@openfeature/flagd-core/package.json')));
const { document, flags, contexts } = JSON.parse(fs.readFileSync(0));
const quiet = { error() {}, warn() {}, info() {}, debug() {} };
const core = new FlagdCore(undefined, quiet);
core.setConfigurations(document);
const answers = {};
for (const flag of flags) {
  answers[flag] = contexts.map((context) => core.resolveStringEvaluation(flag, 'code default', context, quiet).value);
}
process.stdout.write(JSON.stringify({ version, answers }));
