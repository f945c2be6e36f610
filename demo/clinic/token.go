package clinic

import "github.com/golang-jwt/jwt/v5"

// Sign makes a JSON Web Token (RFC 7519, HS256), as the hospital's identity provider would.
func Sign(claims map[string]any, key string) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(claims)).SignedString([]byte(key))
}

// Verify checks a token's signature and lifetime, and returns its subject.
func Verify(token, key string) (string, error) {
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return []byte(key), nil }, jwt.WithValidMethods([]string{"HS256"}))
	return claims.Subject, err
}
