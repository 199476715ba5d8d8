//! Against tokens that PyJWT signed (testdata/), and tokens of our own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;

const KEYS: &str = include_str!("testdata/keys.json");
/// An algorithm and a token on each line.
const TOKENS: &str = include_str!("testdata/tokens.txt");
/// When the tokens were issued; they are good for an hour.
const ISSUED_AT_S: u64 = 1_790_000_000;

#[test]
fn tokens_of_another_library_are_verified() {
    let keys = keys();
    assert_eq!(keys.counts(), (4, 0));
    for (name, token) in tokens() {
        let claims = verify(token, &keys).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(claims.check(&rules(), ISSUED_AT_S), Ok(()), "{name}");
        assert_eq!(&*claims.authorized().principal_id, "ada");
    }
    assert_eq!(tokens().count(), 9);
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_signature() {
    let symmetric = include_str!("testdata/hs256_with_public_key.txt").trim();
    assert_eq!(verify(symmetric, &keys()), Err(TokenError::Algorithm));
    for algorithm in ["none", "None", "", "rs256", "ES512", "ES256K"] {
        let header = encode(&json!({ "alg": algorithm, "kid": "rsa" }));
        let token = format!("{header}.{}.", encode(&json!({})));
        assert_eq!(verify(&token, &keys()), Err(TokenError::Algorithm), "{algorithm}");
    }
}

#[test]
fn a_key_signs_only_with_its_own_algorithms() {
    let (_, token) = tokens().next().unwrap();
    let (_, behind) = token.split_once('.').unwrap();
    let with_header = |header: Value| verify(&format!("{}.{behind}", encode(&header)), &keys());
    let refused = with_header(json!({ "alg": "RS256", "kid": "p256" }));
    assert_eq!(refused, Err(TokenError::KeyMismatch));
    let refused = with_header(json!({ "alg": "RS256", "kid": "other" }));
    assert_eq!(refused, Err(TokenError::UnknownKey));
    let refused = with_header(json!({ "alg": "RS256", "kid": "rsa", "crit": ["b64"] }));
    assert_eq!(refused, Err(TokenError::Critical));
    let refused = with_header(json!({ "alg": "RS512", "kid": "rsa" }));
    assert_eq!(refused, Err(TokenError::Signature));
    // Nothing of the header is believed for being there: it is signed as well.
    assert_eq!(with_header(json!({ "alg": "RS256", "kid": "rsa" })), Err(TokenError::Signature));
    assert_eq!(with_header(json!({ "alg": "RS256" })), Err(TokenError::Signature));
}

#[test]
fn a_key_that_names_its_algorithm_signs_with_no_other() {
    let mut set: Value = serde_json::from_str(KEYS).unwrap();
    set["keys"][0]["alg"] = json!("RS384");
    let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
    for (name, token) in tokens().take(6) {
        let outcome = verify(token, &keys).map(|_| ());
        let is_own = name == "RS384";
        assert_eq!(outcome, if is_own { Ok(()) } else { Err(TokenError::KeyMismatch) }, "{name}");
    }
}

#[test]
fn a_short_rsa_key_signs_nothing() {
    let keys = KeySet::parse(include_bytes!("testdata/short_key.json")).unwrap();
    let token = include_str!("testdata/short_key_token.txt").trim();
    assert_eq!(verify(token, &keys), Err(TokenError::Signature));
}

#[test]
fn keys_that_are_not_understood_or_for_something_else_are_skipped() {
    let key: Value = serde_json::from_str::<Value>(KEYS).unwrap()["keys"][1].clone();
    let with = |name: &str, value: Value| {
        let mut changed = key.clone();
        changed[name] = value;
        let set = json!({ "keys": [changed, key] });
        KeySet::parse(set.to_string().as_bytes()).unwrap().counts()
    };
    assert_eq!(with("kid", json!("another")), (2, 0));
    for (name, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("alg", json!("ECDH-ES")),
        ("alg", json!("ES384")),
        ("crv", json!("secp256k1")),
        ("kty", json!("oct")),
        ("kty", Value::Null),
        ("x", json!("AA")),
        ("x", Value::Null),
        ("y", json!("not base64!")),
    ] {
        assert_eq!(with(name, value.clone()), (1, 1), "{name} {value}");
    }
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert_eq!(KeySet::parse(bad.as_bytes()), Err(KeySetError::NotAKeySet), "{bad}");
    }
    let many = json!({ "keys": vec![0; KEYS_MAX + 1] }).to_string();
    assert_eq!(KeySet::parse(many.as_bytes()), Err(KeySetError::TooMany));
    let long = vec![b' '; KEY_SET_BYTES_MAX + 1];
    assert_eq!(KeySet::parse(&long), Err(KeySetError::TooLong));
}

#[test]
fn without_a_key_id_there_must_be_no_choice() {
    let issuer = Issuer::new();
    let header = json!({ "alg": "EdDSA" });
    let token = issuer.sign(&header, &claims());
    assert!(verify(&token, &issuer.keys(&["a"])).is_ok());
    assert_eq!(verify(&token, &issuer.keys(&["a", "b"])), Err(TokenError::UnknownKey));
    assert_eq!(verify(&token, &KeySet::default()), Err(TokenError::UnknownKey));
}

#[test]
fn claims_are_checked_against_the_rules() {
    use ClaimsError::*;
    let now = ISSUED_AT_S;
    for (name, value, outcome) in [
        ("iss", json!("https://other.example"), Err(Issuer)),
        ("iss", Value::Null, Err(Issuer)),
        ("aud", json!(["other", "chat"]), Ok(())),
        ("aud", json!("other"), Err(Audience)),
        ("aud", json!([]), Err(Audience)),
        ("aud", Value::Null, Err(Audience)),
        ("exp", Value::Null, Err(NoExpiry)),
        ("exp", json!(now - 59), Ok(())),
        ("exp", json!(now - 60), Err(Expired)),
        ("exp", json!(1.0), Err(Expired)),
        ("exp", json!(u64::MAX), Ok(())),
        ("nbf", json!(now + 60), Ok(())),
        ("nbf", json!(now + 61), Err(NotYetValid)),
        ("iat", json!(now + 60), Ok(())),
        ("iat", json!(now + 61), Err(IssuedInTheFuture)),
        ("scope", json!("read connect"), Ok(())),
        ("scope", json!("connection"), Err(Scope)),
        ("scope", Value::Null, Err(Scope)),
    ] {
        let mut claims = claims();
        claims["scope"] = json!("connect");
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.to_owned(), value),
        };
        let rules = Rules { scopes: vec!["connect".into(), "admin".into()], ..rules() };
        assert_eq!(check(&claims, &rules), outcome, "{claims}");
    }
}

#[test]
fn other_names_for_audience_and_scope_are_known() {
    let mut claims = claims();
    let members = claims.as_object_mut().unwrap();
    members.remove("aud");
    members.insert("client_id".to_owned(), json!("chat"));
    members.insert("scp".to_owned(), json!(["connect"]));
    let rules = Rules { scopes: vec!["connect".into()], ..rules() };
    assert_eq!(check(&claims, &rules), Ok(()));
    claims["aud"] = json!("other");
    assert_eq!(check(&claims, &rules), Err(ClaimsError::Audience), "it goes first");
    let nobody = Rules { audiences: Vec::new(), ..rules };
    assert_eq!(check(&claims, &nobody), Err(ClaimsError::Audience));
}

#[test]
fn claims_of_a_wrong_type_are_refused() {
    let issuer = Issuer::new();
    for (name, value) in [
        ("iss", json!(1)),
        ("sub", json!([])),
        ("aud", json!([1])),
        ("aud", json!({})),
        ("exp", json!("1790003600")),
        ("exp", json!(-1)),
        ("nbf", json!(1e300)),
        ("iat", json!(null)),
        ("scope", json!(7)),
    ] {
        let mut claims = claims();
        claims[name] = value;
        let token = issuer.sign(&json!({ "alg": "EdDSA" }), &claims);
        assert_eq!(verify(&token, &issuer.keys(&["a"])), Err(TokenError::Claim(name)));
    }
}

#[test]
fn plain_claims_are_passed_on_as_an_authorizer_would() {
    let mut claims = claims();
    claims["admin"] = json!(true);
    claims["groups"] = json!(["a"]);
    let issuer = Issuer::new();
    let token = issuer.sign(&json!({ "alg": "EdDSA" }), &claims);
    let claims = verify(&token, &issuer.keys(&["a"])).unwrap();
    assert_eq!(claims.expires_at_s(), Some(ISSUED_AT_S + 3600));
    let authorized = claims.authorized();
    assert_eq!(&*authorized.principal_id, "ada");
    let context: Vec<_> =
        authorized.context.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "admin=true",
        "aud=chat",
        "exp=1790003600",
        "iat=1790000000",
        "iss=https://id.example",
        "sub=ada",
    ];
    assert_eq!(context, expected);
}

#[test]
fn a_token_is_three_parts_and_not_too_long() {
    for token in ["", ".", "..", "a.b", "a.b.c.d", "e30.e30.e30", "e30=.e30.e30", "W10.e30."] {
        assert_eq!(verify(token, &keys()), Err(TokenError::Malformed), "{token}");
    }
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(verify(&long, &keys()), Err(TokenError::TooLong));
}

proptest! {
    #[test]
    fn any_one_byte_that_changes_spoils_a_token(
        which in 0..9usize,
        at: prop::sample::Index,
        byte in 32..127u8,
    ) {
        let (_, token) = tokens().nth(which).unwrap();
        let mut changed = token.as_bytes().to_vec();
        let at = at.index(changed.len());
        changed[at] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert_eq!(verify(&changed, &keys()).is_ok(), changed == token);
    }

    #[test]
    fn what_is_signed_is_verified(seed: [u8; 32], subject in "\\PC{0,20}") {
        let issuer = Issuer(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap());
        let mut claims = claims();
        claims["sub"] = json!(subject);
        let token = issuer.sign(&json!({ "alg": "EdDSA", "kid": "a" }), &claims);
        let verified = verify(&token, &issuer.keys(&["b", "a"])).unwrap();
        prop_assert_eq!(&*verified.authorized().principal_id, &*subject);
    }

    #[test]
    fn no_token_and_no_key_set_is_too_odd(text in "\\PC{0,40}", header in "\\PC{0,40}", bytes: Vec<u8>) {
        prop_assert!(verify(&text, &keys()).is_err());
        let header = URL_SAFE_NO_PAD.encode(header);
        let token = format!("{header}.e30.{}", URL_SAFE_NO_PAD.encode(&bytes));
        prop_assert!(verify(&token, &keys()).is_err());
        let _ = KeySet::parse(&bytes);
    }
}

/// Ed25519 needs no chance to sign.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Issuer {
        Issuer(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
    }

    /// The same key by several IDs.
    fn keys(&self, ids: &[&str]) -> KeySet {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        let key = |id: &&str| json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": id });
        let keys: Vec<_> = ids.iter().map(key).collect();
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn keys() -> KeySet {
    KeySet::parse(KEYS.as_bytes()).unwrap()
}

fn tokens() -> impl Iterator<Item = (&'static str, &'static str)> {
    TOKENS.lines().map(|line| line.split_once(' ').unwrap())
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example",
        "sub": "ada",
        "aud": "chat",
        "exp": ISSUED_AT_S + 3600,
        "iat": ISSUED_AT_S,
    })
}

fn rules() -> Rules {
    Rules {
        issuer: "https://id.example".into(),
        audiences: vec!["chat".into()],
        scopes: Vec::new(),
        leeway_s: 60,
    }
}

fn check(claims: &Value, rules: &Rules) -> Result<(), ClaimsError> {
    let issuer = Issuer::new();
    let token = issuer.sign(&json!({ "alg": "EdDSA" }), claims);
    verify(&token, &issuer.keys(&["a"])).unwrap().check(rules, ISSUED_AT_S)
}
