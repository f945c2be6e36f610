# Refused at load: no rule carries a payload out of the process.
package temporal.namespaces["asks-the-network"]

request contains {"action": "pass"} if http.send({"method": "post", "url": "https://example.com", "body": input}).status_code == 200
