package kmsstub

import (
	"slices"
	"strings"
	"time"
)

// The operations that manage keys and aliases: as much of them as a test, or the aws command line, needs to
// set up what a proxy is pointed at.

func (s *Server) metadata(k *key, region string) map[string]any {
	m := map[string]any{
		"AWSAccountId": s.account, "KeyId": k.id, "Arn": s.arn(k, region),
		"CreationDate": float64(k.created.UnixMilli()) / 1000, "Enabled": k.state == Enabled, "KeyState": k.state,
		"KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
		"EncryptionAlgorithms": []string{"SYMMETRIC_DEFAULT"}, "Origin": "AWS_KMS", "KeyManager": "CUSTOMER",
		"MultiRegion": k.multi, "Description": "",
	}
	if k.state == PendingDeletion {
		m["DeletionDate"] = float64(s.now().Add(30 * 24 * time.Hour).Unix())
	}
	return m
}

func (s *Server) describeKey(region string, in *keyRequest) (any, error) {
	k, err := s.find(in.KeyId, region)
	if err != nil {
		return nil, err
	}
	return map[string]any{"KeyMetadata": s.metadata(k, region)}, nil
}

func (s *Server) createKeyOp(region string, in *keyRequest) (any, error) {
	return map[string]any{"KeyMetadata": s.metadata(s.createKey(region, in.MultiRegion), region)}, nil
}

func (s *Server) enableKey(region string, in *keyRequest) (any, error) {
	return s.switchState(region, in.KeyId, Enabled)
}

func (s *Server) disableKey(region string, in *keyRequest) (any, error) {
	return s.switchState(region, in.KeyId, Disabled)
}

func (s *Server) switchState(region, keyID string, to State) (any, error) {
	k, err := s.find(keyID, region)
	if err != nil {
		return nil, err
	}
	if k.state == PendingDeletion {
		return nil, s.usable(k, region)
	}
	k.state = to
	return struct{}{}, nil
}

func (s *Server) scheduleKeyDeletion(region string, in *keyRequest) (any, error) {
	k, err := s.find(in.KeyId, region)
	if err != nil {
		return nil, err
	}
	days := in.PendingWindowInDays
	if days == 0 {
		days = 30
	}
	if days < 7 || days > 30 {
		return nil, fail("ValidationException", "PendingWindowInDays must be between 7 and 30")
	}
	k.state = PendingDeletion
	return map[string]any{
		"KeyId": s.arn(k, region), "KeyState": k.state, "PendingWindowInDays": days,
		"DeletionDate": float64(s.now().AddDate(0, 0, days).Unix()),
	}, nil
}

func (s *Server) cancelKeyDeletion(region string, in *keyRequest) (any, error) {
	k, err := s.find(in.KeyId, region)
	if err != nil {
		return nil, err
	}
	if k.state != PendingDeletion {
		return nil, fail("KMSInvalidStateException", s.arn(k, region)+" is not pending deletion.")
	}
	k.state = Disabled // as documented: the key comes back disabled
	return map[string]any{"KeyId": s.arn(k, region)}, nil
}

func (s *Server) rotateKeyOnDemand(region string, in *keyRequest) (any, error) {
	k, err := s.findUsable(in.KeyId, region)
	if err != nil {
		return nil, err
	}
	k.rotate()
	return map[string]any{"KeyId": k.id}, nil
}

func (s *Server) createAlias(region string, in *keyRequest) (any, error) {
	if _, ok := s.aliases[in.AliasName]; ok {
		return nil, fail("AlreadyExistsException", "An alias with the name "+in.AliasName+" already exists")
	}
	if !strings.HasPrefix(in.AliasName, "alias/") || strings.HasPrefix(in.AliasName, "alias/aws/") {
		return nil, fail("InvalidAliasNameException", "Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html")
	}
	return s.pointAlias(region, in)
}

func (s *Server) updateAlias(region string, in *keyRequest) (any, error) {
	if _, err := s.find(in.AliasName, region); err != nil {
		return nil, err
	}
	return s.pointAlias(region, in)
}

func (s *Server) pointAlias(region string, in *keyRequest) (any, error) {
	k, err := s.find(in.TargetKeyId, region)
	if err != nil {
		return nil, err
	}
	s.aliases[in.AliasName] = k.id
	return struct{}{}, nil
}

func (s *Server) deleteAlias(region string, in *keyRequest) (any, error) {
	if _, err := s.find(in.AliasName, region); err != nil {
		return nil, err
	}
	delete(s.aliases, in.AliasName)
	return struct{}{}, nil
}

func (s *Server) listAliases(region string, in *keyRequest) (any, error) {
	names := make([]string, 0, len(s.aliases))
	for name, id := range s.aliases {
		if in.KeyId == "" || in.KeyId == id {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list := make([]map[string]any, len(names))
	for i, name := range names {
		list[i] = map[string]any{
			"AliasName": name, "AliasArn": "arn:aws:kms:" + region + ":" + s.account + ":" + name, "TargetKeyId": s.aliases[name],
		}
	}
	return map[string]any{"Aliases": list, "Truncated": false}, nil
}
