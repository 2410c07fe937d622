// An OpenID provider (oidc-provider) that is not ours, where people sign in: its own pages for name and consent.
// Reads one JSON line from standard input: {clients: [...], accounts: {name: claims}}. Writes one JSON line when it
// listens: {issuer: "http://127.0.0.1:PORT"}; ends with its standard input.
import http from 'node:http';
import readline from 'node:readline';
import Provider from 'oidc-provider';

const lines = readline.createInterface({ input: process.stdin });
const settings = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.once('close', () => process.exit(0));

const server = http.createServer((request, response) => callback(request, response));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients: settings.clients,
  claims: { openid: ['sub'], profile: ['preferred_username', 'groups', 'practices'] },
  pkce: { required: () => true },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...settings.accounts[id] }) }),
  cookies: { keys: ['made up for a test'] },
});
const callback = provider.callback();
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
