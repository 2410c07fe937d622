// The JavaScript reference engine (npm fqm-execution) over patients of a measure: one JSON line with its CPU seconds and population counts.
// usage: NODE_PATH=.../node_modules node fqm.mjs BUNDLE.json[.gz] PATIENTS.ndjson START END   (a line of PATIENTS is one patient's Bundle)
import { createRequire } from "node:module";
import fs from "node:fs";
import zlib from "node:zlib";
const require = createRequire(import.meta.url);
const { Calculator } = require(process.env.FQM ?? "fqm-execution");
const [bundleFile, patientsFile, start, end] = process.argv.slice(2);
const read = (file) => {
  const bytes = fs.readFileSync(file);
  return (file.endsWith(".gz") ? zlib.gunzipSync(bytes) : bytes).toString("utf8");
};
const measure = JSON.parse(read(bundleFile));
const patients = read(patientsFile).trim().split("\n").map((line) => JSON.parse(line));
const options = {
  measurementPeriodStart: start, measurementPeriodEnd: end, verboseCalculationResults: false, calculateSDEs: false,
  calculateHTML: false, includeClauseResults: false, trustMetaProfile: false,
};
// the engine aborts a batch when one patient's data makes an expression throw: then patients are run one by one
const before = process.cpuUsage();
let failed = 0;
const results = [];
try {
  results.push(...(await Calculator.calculate(measure, patients, options)).results);
} catch {
  for (const patient of patients) {
    try { results.push(...(await Calculator.calculate(measure, [patient], options)).results); } catch { failed += 1; }
  }
}
const used = process.cpuUsage(before);
const counts = {};
for (const result of results)
  for (const group of result.detailedResults ?? [])
    for (const population of group.populationResults ?? []) {
      const key = `${group.groupId}.${population.populationType}`;
      const episodes = group.episodeResults
        ? group.episodeResults.filter((e) => e.populationResults.some((p) => p.populationType === population.populationType && p.result)).length
        : Number(population.result);
      counts[key] = (counts[key] ?? 0) + episodes;
    }
console.log(JSON.stringify({ patients: patients.length, cpu: (used.user + used.system) / 1e6, failed, counts }));
