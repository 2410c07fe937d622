// An authorization server (oidc-provider) that is not ours, and in front of a FHIR server a guard that wants its tokens.
// Reads one JSON line from standard input: {client: {id, jwks, alg}, upstream: "http://127.0.0.1:PORT", scopes: [...]}.
// Writes one JSON line when it listens: {guard: "http://127.0.0.1:PORT", issuer: "..."}; ends with its standard input.
import http from 'node:http';
import readline from 'node:readline';
import Provider from 'oidc-provider';

const lines = readline.createInterface({ input: process.stdin });
const settings = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.once('close', () => process.exit(0));

const listen = (server, port = 0) => new Promise((resolve) => server.listen(port, '127.0.0.1', () => {
  resolve(`http://127.0.0.1:${server.address().port}`);
}));

const authorization = http.createServer((request, response) => callback(request, response));
const issuer = await listen(authorization);
const provider = new Provider(issuer, {
  clients: [{
    client_id: settings.client.id,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: settings.client.alg,
    jwks: settings.client.jwks,
  }],
  scopes: settings.scopes,
  enabledJWA: { clientAuthSigningAlgValues: ['RS384', 'ES384'] },
  features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false } },
  ttl: { ClientCredentials: settings.life ?? 60 },
});
const callback = provider.callback();

const guard = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, 'http://guard');
  if (pathname.endsWith('/.well-known/smart-configuration')) {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({
      token_endpoint: `${issuer}/token`,
      grant_types_supported: ['client_credentials'],
      token_endpoint_auth_methods_supported: ['private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ['RS384', 'ES384'],
      scopes_supported: settings.scopes,
      capabilities: ['client-confidential-asymmetric', 'permission-v1'],
    }));
    return;
  }
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? '');
  const token = bearer ? await provider.ClientCredentials.find(bearer[1]) : undefined;
  if (!pathname.endsWith('/metadata') && (!token || token.isExpired)) {
    response.writeHead(401, { 'WWW-Authenticate': 'Bearer' }).end('no token of ours');
    return;
  }
  const { authorization: _, ...headers } = request.headers;
  const onward = http.request(`${settings.upstream}${request.url}`, { method: request.method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  onward.on('error', () => response.writeHead(502).end());
  request.pipe(onward);
});
const address = await listen(guard, settings.port ?? 0);
process.stdout.write(`${JSON.stringify({ guard: address, issuer })}\n`);
