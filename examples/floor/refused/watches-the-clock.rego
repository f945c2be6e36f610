# Refused at load: the same payload gets the same verdict at any time.
package temporal.namespaces["watches-the-clock"]

request contains {"action": "pass"} if time.now_ns() > 0
