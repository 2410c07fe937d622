// CQL to ELM JSON: node translate.mjs --modelinfo DIR --out DIR CQLDIR...
// Translates every *.cql of all CQLDIRs to OUT/<Name>-<version>.json; includes are looked up in all CQLDIRs.
// Needs the npm packages @cqframework/cql and @lhncbc/ucum-lhc beside the working folder, and model info XML files
// (System and FHIR 4.0.1) as the CQL translator publishes them. Exits 1 when a library does not translate.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { modelinfo: { type: "string" }, out: { type: "string" } },
});
if (!values.modelinfo || !values.out || !positionals.length) {
  console.error("usage: node translate.mjs --modelinfo DIR --out DIR CQLDIR...");
  process.exit(2);
}

// resolve packages from the working folder, not from where this script lies
const require = createRequire(pathToFileURL(path.join(process.cwd(), "package.json")));
global.require = require;
const resolveImport = (name) => import(pathToFileURL(require.resolve(name)).href);
const { NamespaceManager } = await resolveImport("@cqframework/cql/cql");
const {
  ModelManager, LibraryManager, CqlTranslator, DefaultModelInfoProvider, DefaultLibrarySourceProvider,
  stringAsPath, CqlCompilerOptions, LibraryBuilder, createUcumService,
} = await resolveImport("@cqframework/cql/cql-to-elm");

// the source provider finds libraries as <name>-<version>.cql in one folder
const flat = fs.mkdtempSync(path.join(values.out, "sources-"));
const sources = [];
for (const folder of positionals) {
  for (const file of fs.readdirSync(folder).filter((name) => name.endsWith(".cql")).sort()) {
    const text = fs.readFileSync(path.join(folder, file), "utf8");
    const [, name, version] = /^library\s+(\w+)\s+version\s+'([^']+)'/m.exec(text);
    fs.writeFileSync(path.join(flat, `${name}-${version}.cql`), text);
    sources.push({ name, version, text });
  }
}

const options = new CqlCompilerOptions();
const O = CqlCompilerOptions.Options;
options.setOptions([
  O.EnableAnnotations, O.EnableLocators, O.EnableResultTypes, O.DisableListDemotion, O.DisableListPromotion,
]);
options.signatureLevel = LibraryBuilder.SignatureLevel.valueOf("Overloads");
options.validateUnits = true;
const ucum = require("@lhncbc/ucum-lhc").UcumLhcUtils.getInstance();
const unsupported = () => { throw new Error("the translator needs no UCUM arithmetic"); };
const validate = (unit) => { const r = ucum.validateUnitString(unit); return r.status === "valid" ? null : r.msg[0]; };
const units = createUcumService(unsupported, validate, unsupported, unsupported);
const models = new ModelManager(new NamespaceManager());
models.modelInfoLoader.registerModelInfoProvider(new DefaultModelInfoProvider(stringAsPath(values.modelinfo)));

let failed = 0;
for (const { name, version, text } of sources) {
  const libraries = new LibraryManager(models, options, null, units);
  libraries.librarySourceLoader.registerProvider(new DefaultLibrarySourceProvider(stringAsPath(flat)));
  const translator = CqlTranslator.fromText(text, libraries);
  const errors = translator.errors.asJsReadonlyArrayView();
  for (const error of errors) console.error(`${name} ${version}: ${error.message} ${error.locator?.toLocator?.() ?? ""}`);
  if (errors.length) failed += 1;
  fs.writeFileSync(path.join(values.out, `${name}-${version}.json`), translator.toJson());
}
fs.rmSync(flat, { recursive: true });
process.exit(failed ? 1 : 0);
