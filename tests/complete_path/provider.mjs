// A real OpenID provider: client credentials as JWT or as opaque tokens, discovery, introspection.
// Arguments: the folder of oidc-provider, the port, the files of its private JWK Set and of the client signer's public one.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, port, keys, signerKeys] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(`${folder}/lib/index.js`).href);
const client = (client_id, more) => ({
  client_id,
  client_secret: `secret-of-${client_id}`,
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: "ES256",
  ...more,
});
const formats = {
  "urn:platform": { audience: "platform", accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } },
  "urn:opaque": { audience: "opaque", accessTokenFormat: "opaque" },
};
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: JSON.parse(readFileSync(keys, "utf8")),
  clients: [
    client("robot"),
    client("gateway"),
    client("signer", {
      client_secret: undefined,
      token_endpoint_auth_method: "private_key_jwt",
      token_endpoint_auth_signing_alg: "ES256",
      jwks: JSON.parse(readFileSync(signerKeys, "utf8")),
    }),
  ],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({ scope: "orders read", accessTokenTTL: 600, ...formats[resource] }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1");
