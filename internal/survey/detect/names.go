package detect

import (
	"strings"
	"unicode"
)

// categories are names of members by what their values are, in English, German, French, Spanish, Italian, Dutch,
// Portuguese, Swedish and Polish: in small letters, without accents and without anything between words.
var categories = map[string]string{
	"password": "password passwd passphrase pwd passcode kennwort passwort motdepasse mdp contrasena clave wachtwoord " +
		"senha palavrapasse losenord haslo pincode dbpass userpass adminpass rootpass smtppass mailpass",
	"secret": "secret clientsecret apikey apisecret accesskey secretkey secretaccesskey privatekey accesstoken refreshtoken idtoken authtoken " +
		"sessiontoken bearertoken authorization sessionid sessioncookie setcookie credential credentials signingkey encryptionkey geheimnis " +
		"zugangstoken jeton jetondacces secreto segreto geheim segredo hemlighet sekret onetimepassword otp totp mfacode recoverycode " +
		"webhooksecret secretkeybase connectionstring",
	"token": "token usertoken logintoken jwt xapikey xauthtoken",
	"government identifier": "ssn socialsecuritynumber socialsecurity nationalid nationalidentifier passport passportnumber passportno taxid tin nino nhsnumber " +
		"driverslicense driverlicense driverslicence drivinglicence licencenumber sozialversicherungsnummer steuernummer steueridentifikationsnummer steuerid " +
		"personalausweis ausweisnummer reisepass nir numerosecuritesociale numerodesecuritesociale dni nie nif codicefiscale bsn " +
		"burgerservicenummer cpf personnummer pesel aadhaar curp rfc sin ahvnummer rodnecislo " +
		"idcard identitycard personalausweisnummer carteidentite documentoidentidad cartaidentita identiteitskaart identiteitskaartnummer " +
		"bilheteidentidade idkort idkortsnummer dowodosobisty numerdowodu numerdowoduosobistego",
	"date of birth": "dob dateofbirth birthdate birthday bday geburtsdatum geburtstag datedenaissance fechadenacimiento fechanacimiento " +
		"datadinascita datenaissance datanascita geboortedatum datadenascimento datanascimento fodelsedatum dataurodzenia",
	"health": "diagnosis diagnoses icd10 icd10code icdcode medication medications prescription bloodtype bloodgroup allergy allergies medicalhistory " +
		"medicalrecord medicalrecordnumber mrn healthrecord patientid patientname labresult labresults symptoms disease disability treatmentplan hivstatus " +
		"diagnose befund krankheit medikament medikamente blutgruppe allergien krankenakte diagnostic maladie groupesanguin ordonnance " +
		"diagnostico enfermedad medicamento gruposanguineo alergias diagnosi malattia farmaci grupposanguigno ziekte bloedgroep doenca sjukdom " +
		"rozpoznanie choroba allergie allergieen alergia alergie allergi allergier medikation arzneimittel medicacion medicatie medicijn medicijnen " +
		"farmaco medicacao lakemedel medicin mediciner leki medicaltreatment traitementmedical tratamientomedico trattamentomedico " +
		"medischebehandeling heilbehandlung tratamentomedico medicinskbehandling leczenie",
	"e-mail address": "email emailaddress mail emails mailaddress emailadresse correo correoelectronico adressemail courriel posta adresemail",
	"telephone number": "phone phonenumber telephone telephonenumber mobile mobilenumber mobilephone cellphone telefon telefonnummer handynummer mobilnummer " +
		"numerodetelephone portable telefono telefonomovil cellulare telefoon telefoonnummer telefone celular telefonnumer mobiltelefon",
	"name of a person": "firstname lastname fullname surname givenname familyname middlename maidenname vorname nachname familienname geburtsname prenom " +
		"nomdefamille nombrecompleto apellido apellidos cognome voornaam achternaam sobrenome nomecompleto fornamn efternamn imie nazwisko " +
		"cardholder cardholdername accountholder",
	"address of a person": "homeaddress streetaddress street streetname addressline1 addressline2 postaladdress postcode zipcode strasse hausnummer postleitzahl " +
		"plz anschrift rue codepostal calle codigopostal indirizzo straat logradouro gatuadress ulica",
	"bank account": "iban bic bankaccount bankaccountnumber accountnumber routingnumber sortcode kontonummer bankverbindung numerodecompte " +
		"numerocuenta cuentabancaria contocorrente rekeningnummer contabancaria numerkonta",
	"payment card": "cardnumber creditcard creditcardnumber pan cvv cvc cvv2 cardcvc securitycode kreditkarte kreditkartennummer kartennummer cartebancaire " +
		"numerodecarte tarjetadecredito numerodetarjeta cartadicredito creditcardnummer cartaodecredito kortnummer",
	"income": "salary wage annualsalary grosssalary netsalary gehalt lohn salaire salario stipendio salaris wynagrodzenie",
	"special category": "religion ethnicity race sexualorientation politicalopinion tradeunion genderidentity biometric biometrics fingerprintdata konfession " +
		"ethnie orientationsexuelle religione etnia",
	"place of a person": "latitude longitude geolocation gpscoordinates ipaddress clientip remoteip",
}

// byName has the categories by name.
var byName = func() map[string]string {
	all := map[string]string{}
	for category, list := range categories {
		for name := range strings.FieldsSeq(list) {
			all[name] = category
		}
	}
	return all
}()

// alone are names that count only if nothing stands before them: behind another word they mean something else.
var alone = map[string]bool{"pan": true, "sin": true, "tin": true, "rue": true, "clave": true, "mail": true, "race": true, "nie": true, "nir": true,
	"rfc": true, "street": true, "posta": true, "portable": true, "mobile": true, "otp": true, "senha": true}

// qualifiers are words behind a name that leave its meaning as it is.
var qualifiers = map[string]bool{"value": true, "text": true, "plain": true, "plaintext": true, "hash": true, "hashed": true, "encrypted": true,
	"number": true, "no": true, "nr": true, "num": true, "code": true, "list": true}

// notSecret are words before `token` that say that it opens nothing.
var notSecret = map[string]bool{"page": true, "next": true, "continuation": true, "sync": true, "cancel": true, "cancellation": true, "resume": true,
	"task": true, "idempotency": true, "dedup": true, "previous": true, "operation": true}

// Name returns what the name of a member says about its value: "" is nothing. Words before the name may tell whose it is, as in
// billingEmail.
func (d *Detector) Name(name string) (Finding, bool) {
	if len(name) > 100 {
		return Finding{}, false
	}
	words := split(name)
	for i := range d.rules {
		if r := &d.rules[i]; r.names[strings.Join(words, "")] {
			return r.finding, true
		}
	}
	for len(words) > 0 {
		for from := range words {
			if words[from] == "token" && from > 0 && notSecret[words[from-1]] {
				break
			}
			if category := category(words[from:], from == 0); category != "" {
				return Finding{category, ByName}, true
			}
		}
		last := words[len(words)-1]
		if !qualifiers[last] && strings.Trim(last, digits) != "" {
			break
		}
		words = words[:len(words)-1]
	}
	return Finding{}, false
}

// links are words between others that some programs leave out: date_de_naissance, dateNaissance.
var links = map[string]bool{"de": true, "del": true, "di": true, "da": true, "do": true, "du": true, "des": true, "d": true, "of": true, "van": true}

// category returns what these words say together, also with a plural, or without the words that link them. first reports whether nothing
// stands before them.
func category(words []string, first bool) string {
	joined := strings.Join(words, "")
	if category := byName[joined]; category != "" {
		if alone[joined] && !first {
			return ""
		}
		return category
	}
	for _, plural := range []string{"s", "es", "n", "en"} {
		one, ends := strings.CutSuffix(joined, plural)
		if category := byName[one]; ends && category != "" && category != "token" && !alone[one] { // tokens are counted
			return category
		}
	}
	var kept []string
	for i, w := range words {
		if i == 0 || !links[w] {
			kept = append(kept, w)
		}
	}
	if len(kept) == len(words) {
		return ""
	}
	return category(kept, first)
}

// plainLetters replaces letters with accents.
var plainLetters = strings.NewReplacer("ä", "a", "ö", "o", "ü", "u", "ß", "ss", "é", "e", "è", "e", "ê", "e", "ë", "e", "à", "a", "á", "a", "â", "a",
	"ã", "a", "å", "a", "ç", "c", "í", "i", "î", "i", "ï", "i", "ñ", "n", "ó", "o", "ô", "o", "õ", "o", "ú", "u", "ù", "u", "û", "u",
	"ł", "l", "ę", "e", "ą", "a", "ś", "s", "ż", "z", "ź", "z", "ć", "c", "ń", "n")

// split returns the words of a name in small letters without accents: what stands between other characters, or begins with a
// capital letter.
func split(name string) []string {
	var words []string
	var current []rune
	end := func() {
		if len(current) > 0 {
			words = append(words, plainLetters.Replace(strings.ToLower(string(current))))
			current = nil
		}
	}
	runes := []rune(name)
	for i, r := range runes {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			end()
			continue
		}
		// A capital begins a word behind a small letter, and before one: userID, SSNumber.
		if unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			end()
		}
		if unicode.IsDigit(r) && i > 0 && unicode.IsLetter(runes[i-1]) && numeral(runes[i:]) {
			end() // phone2
		}
		current = append(current, r)
	}
	end()
	return words
}

// numeral reports whether nothing but digits follows.
func numeral(rest []rune) bool {
	for _, r := range rest {
		if !unicode.IsDigit(r) {
			return false
		}
	}
	return true
}
