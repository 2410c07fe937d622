// The npm client fhir-kit-client against our server: discovery, token by a signed assertion, read, search, paging, history,
// batch. Reads one JSON line from standard input: {base, clientId, assertion}. Writes one JSON line.
import readline from 'node:readline';
import { Client } from 'fhir-kit-client';

const lines = readline.createInterface({ input: process.stdin });
const { base, assertion } = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.close();

const client = new Client({ baseUrl: base });
const { tokenUrl } = await client.smartAuthMetadata();
const answer = await fetch(tokenUrl, {
  method: 'POST',
  headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
  body: new URLSearchParams({
    grant_type: 'client_credentials',
    scope: 'system/*.rs',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion,
  }),
});
client.bearerToken = (await answer.json()).access_token;

const statement = await client.capabilityStatement();
const first = await client.search({ resourceType: 'Patient', searchParams: { _count: 2 } });
const second = await client.nextPage({ bundle: first });
const { id } = first.entry[0].resource;
const read = await client.read({ resourceType: 'Patient', id });
const versions = await client.history({ resourceType: 'Patient', id });
const batch = await client.batch({
  body: { resourceType: 'Bundle', type: 'batch', entry: [{ request: { method: 'GET', url: `Patient/${id}` } }] },
});
process.stdout.write(`${JSON.stringify({
  fhirVersion: statement.fhirVersion,
  pages: [first.entry.length, second.entry.length],
  read: read.id === id,
  versions: versions.entry.length,
  batch: batch.entry[0].response.status,
})}\n`);
