// A certified OpenID Connect provider on loopback, for the tests of logins. Whoever logs in is who they say they are.
// Arguments: port, redirect URI. Prints one line once it listens.
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const [port, redirect] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const GROUPS = { ada: ["researchers"], grace: ["admins", "researchers"], eve: ["visitors"] };
const DEVICE = "urn:ietf:params:oauth:grant-type:device_code";
const client = (id, more) => ({
  client_id: id,
  application_type: "native",
  redirect_uris: [redirect],
  response_types: ["code"],
  grant_types: ["authorization_code", DEVICE],
  ...more,
});

const provider = new Provider(issuer, {
  clients: [
    client("foedus", { token_endpoint_auth_method: "none" }),
    client("foedus-secret", { token_endpoint_auth_method: "client_secret_post", client_secret: "s".repeat(43) }),
    client("other", { token_endpoint_auth_method: "none" }),
  ],
  claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["only for tests"] },
  features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
  findAccount: (context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, groups: GROUPS[id] ?? [] }),
  }),
});

createServer(provider.callback()).listen(Number(port), "127.0.0.1", () => console.log(`listening ${issuer}`));
