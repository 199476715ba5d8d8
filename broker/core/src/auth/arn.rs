//! The names that policies know things by.

/// Of which API of whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiArn<'a> {
    pub region: &'a str,
    /// Twelve digits.
    pub account: &'a str,
    pub api: &'a str,
}

/// What the management API does to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionsVerb {
    Post,
    Get,
    Delete,
}

/// Who opens a connection does this to the route `$connect`.
pub const INVOKE: &str = "execute-api:Invoke";
/// Who calls `@connections` does this.
pub const MANAGE_CONNECTIONS: &str = "execute-api:ManageConnections";

impl ApiArn<'_> {
    /// `arn:aws:execute-api:{region}:{account}:{api}/{stage}/{route key}`: an authorizer's
    /// `methodArn`.
    pub fn route(&self, stage: &str, route_key: &str) -> String {
        let ApiArn { region, account, api } = self;
        format!("arn:aws:execute-api:{region}:{account}:{api}/{stage}/{route_key}")
    }

    /// As API Gateway evaluates it: with the path's template in place of the connection ID, which
    /// is why no policy can single out a connection.
    pub fn connections(&self, stage: &str, verb: ConnectionsVerb) -> String {
        let verb = match verb {
            ConnectionsVerb::Post => "POST",
            ConnectionsVerb::Get => "GET",
            ConnectionsVerb::Delete => "DELETE",
        };
        self.route(stage, &format!("{verb}/@connections/{{connectionId}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_api_gateway() {
        let arn = ApiArn { region: "us-east-1", account: "123456789012", api: "abc" };
        let connect = "arn:aws:execute-api:us-east-1:123456789012:abc/prod/$connect";
        assert_eq!(arn.route("prod", "$connect"), connect);
        let get =
            "arn:aws:execute-api:us-east-1:123456789012:abc/dev/GET/@connections/{connectionId}";
        assert_eq!(arn.connections("dev", ConnectionsVerb::Get), get);
    }
}
