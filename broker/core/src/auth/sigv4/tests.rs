//! Against the signatures that AWS publishes, those that its SDK for Python makes, and ourselves.

use proptest::prelude::*;

use super::*;
use crate::auth::time::BasicTime;

const SUITE_SCOPE: Scope<'_> = Scope { region: "us-east-1", service: "service" };
const SUITE_TIME: &str = "20150830T123600Z";
const KEY: Credentials<'_> = Credentials {
    access_key_id: "AKIDEXAMPLE",
    secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    session_token: None,
};
const TOKEN: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
const HOST: (&str, &[u8]) = ("Host", b"example.amazonaws.com");
const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// When the SDK signed.
const SDK_TIME: &str = "20260925T002230Z";
const SDK_HOST: &str = "abc.execute-api.eu-central-1.amazonaws.com";
const EXPECTATION: Expectation<'_> = Expectation {
    service: "execute-api",
    region: Some("eu-central-1"),
    unsigned_payload: UnsignedPayload::Refused,
};

#[test]
fn requests_are_signed_as_in_the_published_test_suite() {
    let unreserved = &*format!("/{UNRESERVED}");
    let unreserved_query = &*format!("{UNRESERVED}={UNRESERVED}");
    for (target, signature) in [
        ("GET /", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET /example/..", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET /a/b/../..", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET /./", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET //", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET /./example", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"),
        ("GET //example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        ("GET /example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
        (
            &format!("GET {unreserved}"),
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        ("GET /ሴ", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ("GET /?Param1=value1", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
        (
            "GET /?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
            "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
        ),
        (
            "GET /?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            &format!("GET /?{unreserved_query}"),
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        ("GET /?ሴ=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
        ("POST /", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "POST /?Param1=value1",
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        ),
    ] {
        assert_eq!(suite_signature(target, &[HOST], b""), signature, "{target}");
    }
}

#[test]
fn headers_are_signed_as_in_the_published_test_suite() {
    let my = |value: &'static [u8]| ("My-Header1", value);
    let duplicate = [HOST, my(b"value2"), my(b"value2"), my(b"value1")];
    let multiline = [HOST, my(b"value1\n  value2\n     value3")];
    let order = [HOST, my(b"value4"), my(b"value1"), my(b"value3"), my(b"value2")];
    let trim = [HOST, my(b" value1"), ("My-Header2", b" \"a   b   c\"")];
    for (method, headers, signature) in [
        ("GET", &duplicate[..], "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
        ("GET", &multiline, "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd"),
        ("GET", &order, "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"),
        ("GET", &trim, "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
        (
            "POST",
            &[HOST, my(b"VALUE1")],
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
        ),
    ] {
        assert_eq!(suite_signature(&format!("{method} /"), headers, b""), signature);
    }
}

#[test]
fn a_body_is_signed_as_in_the_published_test_suite() {
    let hash = b"9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
    let headers: [(&str, &[u8]); 4] = [
        ("Content-Type", b"application/x-www-form-urlencoded"),
        HOST,
        ("Content-Length", b"13"),
        ("x-amz-content-sha256", hash),
    ];
    let expected = "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b";
    assert_eq!(suite_signature("POST /", &headers, b"Param1=value1"), expected);
}

#[test]
fn a_session_token_is_signed_as_in_the_published_test_suite() {
    let request = Request { method: "GET", path: "/", query: "", headers: &[HOST], body: b"" };
    let credentials = Credentials { session_token: Some(TOKEN), ..KEY };
    let added = sign(&request, &credentials, &SUITE_SCOPE, ms(SUITE_TIME));
    let authorization = "AWS4-HMAC-SHA256 \
        Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
        SignedHeaders=host;x-amz-date;x-amz-security-token, \
        Signature=07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8";
    let expected = [
        ("x-amz-date", SUITE_TIME),
        ("x-amz-security-token", TOKEN),
        ("authorization", authorization),
    ];
    assert_eq!(added, expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn calls_of_lambda_are_signed_as_by_the_sdk() {
    let request = Request {
        method: "POST",
        path: "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3A\
            function%3Achat/invocations",
        query: "Qualifier=live",
        headers: &[
            ("host", b"lambda.eu-central-1.amazonaws.com"),
            ("content-type", b"application/json"),
            ("x-amz-invocation-type", b"RequestResponse"),
        ],
        body: b"{}",
    };
    let scope = Scope { region: "eu-central-1", service: "lambda" };
    let added = sign(&request, &KEY, &scope, ms(SDK_TIME));
    let expected = "c1a87c272bb95fd4010d18654cb9dd0f0ba6635be5ce233c9f94a4e448c81cbb";
    assert_eq!(signature_of(&added), expected);
}

/// Requests of all kinds, made up at random and signed by botocore 1.44.8.
#[test]
fn odd_requests_are_signed_as_by_the_sdk() {
    let scope = Scope { region: "eu-central-1", service: "execute-api" };
    for line in include_str!("testdata/botocore.jsonl").lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| case[name].as_str().unwrap();
        let headers =
            case["headers"].as_array().unwrap().iter().map(|header| {
                (header[0].as_str().unwrap(), header[1].as_str().unwrap().as_bytes())
            });
        let request = Request {
            method: text("method"),
            path: text("path"),
            query: text("query"),
            headers: &headers.collect::<Vec<_>>(),
            body: &bytes(text("body")),
        };
        let credentials = Credentials { session_token: case["token"].as_str(), ..KEY };
        let added = sign(&request, &credentials, &scope, ms(SDK_TIME));
        assert_eq!(signature_of(&added), text("signature"), "{line}");
    }
}

#[test]
fn posts_of_the_sdk_are_verified_however_their_path_is_encoded() {
    let verify_post = |path: &str, signature: &str| {
        let authorization = authorization("host;x-amz-date", signature);
        let headers: [(&str, &[u8]); 4] = [
            ("host", b"127.0.0.1:8080"),
            ("x-amz-date", SDK_TIME.as_bytes()),
            ("authorization", authorization.as_bytes()),
            ("amz-sdk-request", b"attempt=1"),
        ];
        check(&Request { method: "POST", path, query: "", headers: &headers, body: b"hello" })
    };
    let plain = "/prod/@connections/L0SM9cOFvHcCIhw%3D";
    let encoded = "/prod/%40connections/L0SM9cOFvHcCIhw%3D";
    let of_plain = "324764c93ee49ad3b9eb43f09cae7552a6e47c63a546e4e483e621ea999ba80d";
    let of_encoded = "01cf4fbeef8257f685b73e06f35525168bc931eb08a81e62af8afa12766cd0c0";
    assert_eq!(verify_post(plain, of_plain), Ok(verified()));
    assert_eq!(verify_post(encoded, of_encoded), Ok(verified()));
    assert_eq!(verify_post(plain, of_encoded), Err(VerifyError::Mismatch));
    assert_eq!(verify_post(encoded, of_plain), Err(VerifyError::Mismatch));
    let twice = "/prod/@connections/L0SM9cOFvHcCIhw%253D";
    assert_eq!(verify_post(twice, of_plain), Ok(verified()), "encoded once more on the way");
}

#[test]
fn deletes_of_the_sdk_with_a_session_token_are_verified() {
    let names = "host;x-amz-date;x-amz-security-token";
    let signature = "81a867d2f94d5be6f348c5d6e72e29d9c9ad7d7aa836e4349629579f30ae5150";
    let authorization = authorization(names, signature);
    let token = "AQoDYXdzEPT//////////wEXAMPLE==";
    let headers: [(&str, &[u8]); 4] = [
        ("host", b"127.0.0.1:8080"),
        ("x-amz-date", SDK_TIME.as_bytes()),
        ("x-amz-security-token", token.as_bytes()),
        ("authorization", authorization.as_bytes()),
    ];
    let path = "/prod/@connections/JFd%2Bab%2Fc%3DKIAMCNQ%3D";
    let request = Request { method: "DELETE", path, query: "", headers: &headers, body: b"" };
    let verify_with = |session_token| {
        let credentials = Credentials { session_token, ..KEY };
        verify(&request, &EXPECTATION, ms(SDK_TIME), |_| Some(credentials))
    };
    assert_eq!(verify_with(Some(token)), Ok(verified()));
    assert_eq!(verify_with(Some("another")), Err(VerifyError::UnknownKey));
    assert_eq!(verify_with(None), Err(VerifyError::UnknownKey));
}

#[test]
fn presigned_urls_are_those_of_the_sdk() {
    let token = "AQoDYXdzEPT//////////wEXAMPLE==";
    let temporary = Credentials { session_token: Some(token), ..KEY };
    let scope = Scope { region: "eu-central-1", service: "execute-api" };
    let headers = [("host", SDK_HOST.as_bytes())];
    let presign = |query, credentials: &Credentials<'_>, expires_s| {
        let request = Request { query, ..connect(&headers) };
        presign(&request, credentials, &scope, ms(SDK_TIME), Some(expires_s))
    };
    let plain = "room=a%20b&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F\
        20260925%2Feu-central-1%2Fexecute-api%2Faws4_request&X-Amz-Date=20260925T002230Z&\
        X-Amz-Expires=300&X-Amz-SignedHeaders=host&X-Amz-Signature=\
        6c0705adade684b276a1c23633a1f4506e1c8d3f0278fad2af6db03ae97f6e0c";
    let with_token = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F\
        20260925%2Feu-central-1%2Fexecute-api%2Faws4_request&X-Amz-Date=20260925T002230Z&\
        X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=\
        AQoDYXdzEPT%2F%2F%2F%2F%2F%2F%2F%2F%2F%2FwEXAMPLE%3D%3D&X-Amz-Signature=\
        86562d14f7135c93ef108f0b883bf6b03ffad4c70c42b87c40c699e278e7a78f";
    assert_eq!(presign("room=a%20b", &KEY, 300), plain);
    assert_eq!(presign("", &temporary, 60), with_token);
    assert_eq!(check(&Request { query: plain, ..connect(&headers) }), Ok(verified()));
    let request = Request { query: with_token, ..connect(&headers) };
    let verify = verify(&request, &EXPECTATION, ms(SDK_TIME), |_| Some(temporary));
    assert_eq!(verify, Ok(verified()));
}

#[test]
fn a_presigned_url_lives_as_long_as_it_says_or_as_long_as_clocks_may_differ() {
    let scope = Scope { region: "eu-central-1", service: "execute-api" };
    let headers = [("host", SDK_HOST.as_bytes())];
    let now = ms(SDK_TIME);
    for (expires_s, lifetime_ms) in
        [(Some(60), 60_000), (Some(604_800), 604_800_000), (None, SKEW_MAX_MS)]
    {
        let query = &presign(&connect(&headers), &KEY, &scope, now, expires_s);
        let request = Request { query, ..connect(&headers) };
        let verify_at = |now_ms| verify(&request, &EXPECTATION, now_ms, |_| Some(KEY));
        assert_eq!(verify_at(now + lifetime_ms), Ok(verified()));
        assert_eq!(verify_at(now - SKEW_MAX_MS), Ok(verified()));
        assert!(verify_at(now + lifetime_ms + 1).is_err(), "{expires_s:?}");
        assert!(verify_at(now - SKEW_MAX_MS - 1).is_err(), "{expires_s:?}");
    }
    for expires in ["0", "604801", "-1", "+1", "1.5", "", "99999999999999999999"] {
        let query = presign(&connect(&headers), &KEY, &scope, now, Some(77));
        let query = &query.replace("Expires=77", &format!("Expires={expires}"));
        let refused = check(&Request { query, ..connect(&headers) });
        assert_eq!(refused, Err(Incomplete::Expires.into()), "{expires}");
    }
}

#[test]
fn clocks_may_be_five_minutes_apart() {
    let headers = signed("GET", "/prod", "", b"");
    let request = Request { headers: &as_headers(&headers), ..connect(&[]) };
    let verify_at = |time| verify(&request, &EXPECTATION, ms(time), |_| Some(KEY));
    assert_eq!(verify_at("20260925T002730Z"), Ok(verified()));
    assert_eq!(verify_at("20260925T001730Z"), Ok(verified()));
    let late = verify_at("20260925T002731Z").unwrap_err();
    assert_eq!(
        late.to_string(),
        "Signature expired: 20260925T002230Z is now earlier than 20260925T002231Z \
         (20260925T002731Z - 5 min.)"
    );
    let early = verify_at("20260925T001729Z").unwrap_err();
    assert_eq!(
        early.to_string(),
        "Signature not yet current: 20260925T002230Z is still later than 20260925T002229Z \
         (20260925T001729Z + 5 min.)"
    );
    assert_eq!([late.exception(), early.exception()], ["InvalidSignatureException"; 2]);
}

#[test]
fn what_is_not_signed_in_full_is_refused_with_the_reason() {
    let refusal = |authorization: &str| {
        let date = ("x-amz-date", SDK_TIME.as_bytes());
        let headers = [HOST, date, ("authorization", authorization.as_bytes())];
        check(&connect(&headers)).unwrap_err()
    };
    assert_eq!(check(&connect(&[HOST])), Err(VerifyError::Missing));
    let bearer = refusal("Bearer secret");
    assert_eq!(bearer.exception(), "IncompleteSignatureException");
    assert!(!bearer.to_string().contains("secret"));
    assert_eq!(
        refusal("AWS4-HMAC-SHA256 Signature=1").to_string(),
        "Authorization header requires 'Credential' parameter. \
         Authorization header requires 'SignedHeaders' parameter."
    );
    let credential = "Credential=AKIDEXAMPLE/20260925/eu-central-1/execute-api/aws4_request";
    for (authorization, error) in [
        (
            format!("AWS4-HMAC-SHA512 {credential},SignedHeaders=host,Signature="),
            Incomplete::Algorithm,
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=host,Signature=".into(),
            Incomplete::Credential,
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential},SignedHeaders=host;a,Signature="),
            Incomplete::SignedHeaders,
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential},SignedHeaders=host;host,Signature="),
            Incomplete::SignedHeaders,
        ),
        (format!("AWS4-HMAC-SHA256 {credential},{credential}"), Incomplete::Repeated),
        (format!("AWS4-HMAC-SHA256 {credential},SignedHeaders"), Incomplete::NoEqualSign),
    ] {
        assert_eq!(refusal(&authorization), error.into(), "{authorization}");
    }
    let unsigned_host =
        format!("AWS4-HMAC-SHA256 {credential},SignedHeaders=x-amz-date,Signature=");
    assert_eq!(refusal(&unsigned_host), VerifyError::HostNotSigned);
    let absent = format!("AWS4-HMAC-SHA256 {credential},SignedHeaders=a;host,Signature=");
    assert_eq!(refusal(&absent), VerifyError::SignedHeaderAbsent);
    let short = format!("AWS4-HMAC-SHA256 {credential},SignedHeaders=host,Signature=00");
    assert_eq!(refusal(&short), VerifyError::Mismatch);
    let both = Request { query: "X-Amz-Algorithm=a", ..connect(&[HOST, ("Authorization", b"b")]) };
    assert_eq!(check(&both), Err(VerifyError::TwoPlaces));
    let query = Request { query: "X-Amz-Algorithm=a&X-Amz-Date=b", ..connect(&[HOST]) };
    assert_eq!(
        check(&query).unwrap_err().to_string(),
        "AWS query-string parameters must include 'X-Amz-Credential'. AWS query-string parameters \
         must include 'X-Amz-Signature'. AWS query-string parameters must include \
         'X-Amz-SignedHeaders'. Re-examine the query-string parameters."
    );
}

#[test]
fn a_signature_for_another_place_or_by_another_key_is_refused() {
    let headers = signed("GET", "/prod", "", b"");
    let request = Request { headers: &as_headers(&headers), ..connect(&[]) };
    let verify_for = |expectation: Expectation<'_>, credentials| {
        verify(&request, &expectation, ms(SDK_TIME), |id| {
            assert_eq!(id, KEY.access_key_id);
            credentials
        })
    };
    let elsewhere = Expectation { region: Some("us-east-1"), ..EXPECTATION };
    assert_eq!(verify_for(elsewhere, Some(KEY)), Err(VerifyError::WrongRegion));
    let anywhere = Expectation { region: None, ..EXPECTATION };
    assert_eq!(verify_for(anywhere, Some(KEY)), Ok(verified()));
    let wrong = verify_for(Expectation { service: "lambda", ..EXPECTATION }, Some(KEY));
    let text = "Credential should be scoped to correct service: 'lambda'. ";
    assert_eq!(wrong.unwrap_err().to_string(), text);
    let unknown = verify_for(EXPECTATION, None).unwrap_err();
    assert_eq!(unknown.exception(), "UnrecognizedClientException");
    let other = Credentials { secret_access_key: "other", ..KEY };
    assert_eq!(verify_for(EXPECTATION, Some(other)), Err(VerifyError::Mismatch));
}

#[test]
fn the_declared_hash_of_the_body_must_be_that_of_the_body() {
    let declare = |hash: &str, unsigned_payload| {
        let declared = ("x-amz-content-sha256", hash.as_bytes());
        let host = ("host", SDK_HOST.as_bytes());
        let request = Request { method: "POST", headers: &[host, declared], ..connect(&[]) };
        let scope = Scope { region: "eu-central-1", service: "execute-api" };
        let added = sign(&request, &KEY, &scope, ms(SDK_TIME));
        let mut headers = vec![host, declared];
        headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        let expectation = Expectation { unsigned_payload, ..EXPECTATION };
        let request = Request { headers: &headers, ..request };
        verify(&request, &expectation, ms(SDK_TIME), |_| Some(KEY))
    };
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(declare(empty, UnsignedPayload::Refused), Ok(verified()));
    let other = empty.replace('e', "f");
    assert_eq!(declare(&other, UnsignedPayload::Accepted), Err(VerifyError::WrongPayload));
    for unsigned in ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"] {
        let refused = declare(unsigned, UnsignedPayload::Refused);
        assert_eq!(refused, Err(VerifyError::UnsignedPayload), "{unsigned}");
    }
}

#[test]
fn an_unsigned_body_may_be_accepted() {
    // Signed by hand: our own signer signs every body.
    let names = "host;x-amz-content-sha256;x-amz-date";
    let mut headers: Vec<(&str, &[u8])> = vec![
        ("host", SDK_HOST.as_bytes()),
        ("x-amz-content-sha256", b"UNSIGNED-PAYLOAD"),
        ("x-amz-date", SDK_TIME.as_bytes()),
    ];
    let signed_headers: Vec<_> = names.split(';').map(str::to_owned).collect();
    let form = canonical::Form {
        path_encoding: canonical::PathEncoding::Once,
        query_without: None,
        signed_headers: &signed_headers,
        payload_hash: "UNSIGNED-PAYLOAD",
    };
    let scope = Scope { region: "eu-central-1", service: "execute-api" };
    let time = BasicTime(ms(SDK_TIME));
    let canonical = canonical::hash(&connect(&headers), &form);
    let key = sign::signing_key(KEY.secret_access_key, &scope, time);
    let text = sign::string_to_sign(&scope, time, canonical);
    let tag = ring::hmac::sign(&key, text.as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let authorization = authorization(names, &hex);
    headers.push(("authorization", authorization.as_bytes()));
    let request = Request { body: b"anything", ..connect(&headers) };
    let accepted = Expectation { unsigned_payload: UnsignedPayload::Accepted, ..EXPECTATION };
    assert_eq!(verify(&request, &accepted, ms(SDK_TIME), |_| Some(KEY)), Ok(verified()));
    assert_eq!(check(&request), Err(VerifyError::UnsignedPayload));
}

proptest! {
    #[test]
    fn what_is_signed_is_verified_and_nothing_else_is(
        path in "/[a-zA-Z0-9@=+%-]{1,20}",
        query in "([a-z]{1,3}=[a-zA-Z0-9]{0,5}&){0,3}",
        body: Vec<u8>,
        change in 0..4usize,
        at: prop::sample::Index,
        bit in 0..8u32,
    ) {
        let headers = signed("POST", &path, &query, &body);
        let headers = as_headers(&headers);
        let request =
            Request { method: "POST", path: &path, query: &query, headers: &headers, body: &body };
        prop_assert_eq!(check(&request), Ok(verified()));
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            bytes
        };
        let mut parts =
            [path.as_bytes(), query.as_bytes(), &body, headers.last().unwrap().1].map(Vec::from);
        parts[change] = flip(&parts[change]);
        let [path, query, body, authorization] = &parts;
        let (Ok(path), Ok(query)) = (str::from_utf8(path), str::from_utf8(query)) else {
            return Ok(());
        };
        let mut changed = headers.clone();
        changed.last_mut().unwrap().1 = authorization;
        let changed = Request { method: "POST", path, query, headers: &changed, body };
        // What reads the same is the same: the order of the query's members, and empty ones.
        let is_same = (request.body, request.headers) == (changed.body, changed.headers)
            && pairs(request.query) == pairs(changed.query)
            && canonical::path(request.path, canonical::PathEncoding::Again)
                == canonical::path(changed.path, canonical::PathEncoding::Again);
        prop_assert_eq!(check(&changed).is_ok(), is_same);
    }

    #[test]
    fn no_request_is_too_odd(
        path in "\\PC{0,20}",
        query in "(X-Amz-[A-Z][a-z]{1,10}=[\\PC&&[^&]]{0,10}&){0,5}",
        authorization: Vec<u8>,
        parameters in "AWS4-HMAC-SHA256 [A-Za-z=/,; ]{0,80}",
        date in "[0-9TZ]{0,20}",
    ) {
        for authorization in [Some(&authorization[..]), Some(parameters.as_bytes()), None] {
            let mut headers = vec![HOST, ("x-amz-date", date.as_bytes())];
            headers.extend(authorization.map(|value| ("authorization", value)));
            let request =
                Request { method: "GET", path: &path, query: &query, headers: &headers, body: b"" };
            let refusal = check(&request).unwrap_err();
            prop_assert!(!refusal.to_string().is_empty());
        }
        let query = format!("{query}X-Amz-Algorithm=AWS4-HMAC-SHA256");
        let presigned = Request { query: &query, ..connect(&[HOST]) };
        prop_assert!(check(&presigned).is_err());
    }
}

fn pairs(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs: Vec<_> = canonical::pairs_of(query).collect();
    pairs.sort();
    pairs
}

/// Of hexadecimal digits.
fn bytes(text: &str) -> Vec<u8> {
    let starts = (0..text.len()).step_by(2);
    starts.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn ms(time: &str) -> u64 {
    BasicTime::parse(time).unwrap().0
}

fn verified() -> Verified {
    Verified { access_key_id: KEY.access_key_id.to_owned() }
}

fn check(request: &Request<'_>) -> Result<Verified, VerifyError> {
    verify(request, &EXPECTATION, ms(SDK_TIME), |id| (id == KEY.access_key_id).then_some(KEY))
}

fn connect<'a>(headers: &'a [(&'a str, &'a [u8])]) -> Request<'a> {
    Request { method: "GET", path: "/prod", query: "", headers, body: b"" }
}

fn authorization(names: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260925/eu-central-1/execute-api/aws4_request, \
         SignedHeaders={names}, Signature={signature}"
    )
}

/// The headers of a request that we signed.
fn signed(method: &str, path: &str, query: &str, body: &[u8]) -> Vec<(&'static str, String)> {
    let host = SDK_HOST.to_owned();
    let request = Request { method, path, query, headers: &[("host", host.as_bytes())], body };
    let scope = Scope { region: "eu-central-1", service: "execute-api" };
    let added = sign(&request, &KEY, &scope, ms(SDK_TIME));
    [vec![("host", host)], added].concat()
}

fn as_headers<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a [u8])> {
    headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

/// `GET /path?query`
fn suite_signature(target: &str, headers: &[(&str, &[u8])], body: &[u8]) -> String {
    let (method, target) = target.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request { method, path, query, headers, body };
    signature_of(&sign(&request, &KEY, &SUITE_SCOPE, ms(SUITE_TIME))).to_owned()
}

fn signature_of<'a>(added: &'a [(&'static str, String)]) -> &'a str {
    added.last().unwrap().1.split_once("Signature=").unwrap().1
}
