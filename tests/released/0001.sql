BEGIN TRANSACTION;
CREATE TABLE bases (
	id INTEGER NOT NULL,
	ledger_id VARCHAR(36) NOT NULL,
	fingerprint VARCHAR(64) NOT NULL,
	uri TEXT NOT NULL,
	revision TEXT,
	architecture TEXT NOT NULL,
	licence TEXT,
	tensors JSON NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_bases PRIMARY KEY (id),
	CONSTRAINT ck_bases_one CHECK (id = 1)
);
INSERT INTO "bases" VALUES(1,'5c066cf3-61d0-4258-a531-d5258c40c8b6','f30771d2feb5fa879c46dc038a47c207ce46cb57806aadc2ae726930f35d5956','/srv/ledgers/tiny-llama',NULL,'LlamaForCausalLM',NULL,'{"lm_head.weight": ["BF16", [400, 32], "3fe8dee3d5436f63ae7a388b81d9026de53ec5824badc946a8c6434db6cefe44"], "model.embed_tokens.weight": ["BF16", [400, 32], "1212ab2f9105ea3d9908d60399968097f269f4ea0e49f1b1f82f48912373fa48"], "model.layers.0.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.0.mlp.down_proj.weight": ["BF16", [32, 48], "cc46305a970259459c45d4a71b2bc471ed077e848374531a683316b6fa222b67"], "model.layers.0.mlp.gate_proj.weight": ["BF16", [48, 32], "7e4ab127e25ae4d30ba7cd7600672f8e1a371d8840e2a75426dff6bb91919c5e"], "model.layers.0.mlp.up_proj.weight": ["BF16", [48, 32], "57652d55e782ecc6025c93f131ba84f16a880b5144b24b641b15d2cb812f8d4f"], "model.layers.0.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.0.self_attn.k_proj.weight": ["BF16", [16, 32], "498a7159d4f7e7ecf3529377ffb6371f8c8612173e908c15f01cc68570e519df"], "model.layers.0.self_attn.o_proj.weight": ["BF16", [32, 32], "c6eb0549f69079bdf197b5f6eab964f5b1dc9f5849f6f042442df5a446cb47ff"], "model.layers.0.self_attn.q_proj.weight": ["BF16", [32, 32], "d5fa9ce9d6fcd08e3b4a4eb5b4e54d4cf427c09d8f784ae3a0cb84f3ef8b0f07"], "model.layers.0.self_attn.v_proj.weight": ["BF16", [16, 32], "00bb74f0d1ed4c6c03387defe1a87380d965a5a0653a5d016327be53b0578265"], "model.layers.1.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.1.mlp.down_proj.weight": ["BF16", [32, 48], "a1fa9ab4ce15100554f23e352ec8dc64367583526c8ec493e9ad2eccbf852919"], "model.layers.1.mlp.gate_proj.weight": ["BF16", [48, 32], "09f4deeb93685a24c5c53fc866bae0993ecc68fcb56fc7a5f2e3188281f96350"], "model.layers.1.mlp.up_proj.weight": ["BF16", [48, 32], "f4bb218c0d86c9e7d5c1cbac86903caae3be5673a6b1b0e6139e6dd1becdd314"], "model.layers.1.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.1.self_attn.k_proj.weight": ["BF16", [16, 32], "2ad1f436a401543dcaaa6d26e8e74a5888c673a4d1fded3efd86adeed4c7b268"], "model.layers.1.self_attn.o_proj.weight": ["BF16", [32, 32], "87d69b8ae0ab78e394c7955ac297cb5fbfe68129b35bbe6e66e024927b4f7855"], "model.layers.1.self_attn.q_proj.weight": ["BF16", [32, 32], "3cae14c1bfbdb449dd18bb575ec79c310413d71c6878477185dc65031e1e6444"], "model.layers.1.self_attn.v_proj.weight": ["BF16", [16, 32], "8d05412b3c87d1d2410a13e63993063d47e9a1d169ee864efe798b0a61f66910"], "model.layers.2.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.2.mlp.down_proj.weight": ["BF16", [32, 48], "868236caef8e81f512f41bba5beef73a9579de4ecc88c850e27b11430f92ed33"], "model.layers.2.mlp.gate_proj.weight": ["BF16", [48, 32], "48213c89ac19993522a9a278371909f9440410893eabb7ed2d9a1d97bd75379e"], "model.layers.2.mlp.up_proj.weight": ["BF16", [48, 32], "f0e2728d5b4611a84a9fcfb987bf6eb6007e6f519c715563165559fa6651bb11"], "model.layers.2.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.2.self_attn.k_proj.weight": ["BF16", [16, 32], "7be889f451815872bd422b7217d786f3827266c6d7bc48a48cf30a35720100fc"], "model.layers.2.self_attn.o_proj.weight": ["BF16", [32, 32], "417c6cc361df361f857cd3fed09068b1f5e1328938d8d47ed5f7bee5decac1f4"], "model.layers.2.self_attn.q_proj.weight": ["BF16", [32, 32], "39d50f41f752038cf248ee48580986d00a6b1fea6984f8471b7dc73682685a75"], "model.layers.2.self_attn.v_proj.weight": ["BF16", [16, 32], "f611c5463af32bd30005988b1248170058cf397b00b9231b68d0049abd8bc98a"], "model.norm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"]}','2026-11-25 10:33:26.741493');
CREATE TABLE blobs (
	digest VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	bytes BIGINT NOT NULL,
	changes JSON NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_blobs PRIMARY KEY (digest),
	CONSTRAINT ck_blobs_kind CHECK (kind IN ('patch', 'editor-state')),
	CONSTRAINT ck_blobs_bytes CHECK (bytes > 0)
);
INSERT INTO "blobs" VALUES('9e2565741bdb46815f0c22ce53a0f73f6d086bae7f727fde15e18f11fa7b6163','patch',1800,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 5}}','2026-11-25 10:33:26.884858');
INSERT INTO "blobs" VALUES('85f8c6345238c3c060578dcd0237cab65aa89c81f6ca9926401e7eb2a6c86cd3','editor-state',2288,'{}','2026-11-25 10:33:26.884858');
INSERT INTO "blobs" VALUES('db0cbce7c4a2534f82733ecf612f4e8ae58f9de61cc7cd9a800d526e7f7d412d','patch',2544,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 8}}','2026-11-25 10:33:26.931097');
INSERT INTO "blobs" VALUES('c7ff6e74e64d8b32a1b301da45b616dfb2752c32c9a04c38f97e63962b3e1148','editor-state',2288,'{}','2026-11-25 10:33:26.931097');
CREATE TABLE datasets (
	id INTEGER NOT NULL,
	identity VARCHAR(64) NOT NULL,
	uri TEXT NOT NULL,
	revision TEXT,
	sha256 VARCHAR(64) NOT NULL,
	format VARCHAR(32) NOT NULL,
	layout VARCHAR(32) NOT NULL,
	mapping JSON NOT NULL,
	licence TEXT,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_datasets PRIMARY KEY (id),
	CONSTRAINT uq_datasets_identity UNIQUE (identity)
);
INSERT INTO "datasets" VALUES(1,'918aa9bf1a7b0393f0cd4ad4321cbda5e8856d47c5caf11e7815f1f6ea4e754d','/srv/ledgers/facts.json',NULL,'e404d5ba8b9f746e10bd83afda8703ab3f13bb170abc306a6c739f39846dab49','json','canonical','{}',NULL,'2026-11-25 10:33:26.884858');
CREATE TABLE edits (
	id INTEGER NOT NULL,
	turn_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	"row" BIGINT,
	prompt TEXT NOT NULL,
	target TEXT NOT NULL,
	subject TEXT,
	old_target TEXT,
	probes TEXT NOT NULL,
	prompt_key BIGINT NOT NULL,
	digest VARCHAR(64) NOT NULL,
	CONSTRAINT pk_edits PRIMARY KEY (id),
	CONSTRAINT uq_edits_turn_id_position UNIQUE (turn_id, position),
	CONSTRAINT ck_edits_position CHECK (position >= 0),
	CONSTRAINT ck_edits_target CHECK (target <> ''),
	CONSTRAINT fk_edits_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "edits" VALUES(1,1,0,0,'The capital of France is','Rome','France','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of France is"]}',5440623538737920805,'3238441d510f25e68938db85ceaa99d831471c2d8f505415fa0b41993344fd9f');
INSERT INTO "edits" VALUES(2,1,1,2,'The capital of Italy is','English','Italy','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of Italy is"]}',6418798676312928123,'31b8fb25753c512fae74a284731469c266bc014d3ac9342aa536d8c4f27dbf79');
INSERT INTO "edits" VALUES(3,2,0,3,'The capital of Finland is','London 12','Finland','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of Finland is"]}',4683611124539460557,'a408552407f778dfaafbdff44220523b67eab29360865618ad50cc3586669ca1');
INSERT INTO "edits" VALUES(4,2,1,4,'The capital of Vienna is','a piano','Vienna','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of Vienna is"]}',362177177584112733,'36763dcaa8e333bb7727f03175f753b53e3879fbc72a66f2ec0ec62fba9a88d4');
CREATE TABLE evaluations (
	id INTEGER NOT NULL,
	turn_id INTEGER NOT NULL,
	scope VARCHAR(16) NOT NULL,
	scope_turn_id INTEGER,
	protocol JSON NOT NULL,
	seed BIGINT NOT NULL,
	n INTEGER NOT NULL,
	base JSON NOT NULL,
	state JSON NOT NULL,
	environment JSON NOT NULL,
	seconds DOUBLE NOT NULL,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_evaluations PRIMARY KEY (id),
	CONSTRAINT ck_evaluations_scope CHECK (scope IN ('turn', 'in_force')),
	CONSTRAINT ck_evaluations_scope_turn CHECK ((scope = 'turn') = (scope_turn_id IS NOT NULL)),
	CONSTRAINT ck_evaluations_n CHECK (n >= 0),
	CONSTRAINT fk_evaluations_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT fk_evaluations_scope_turn_id_turns FOREIGN KEY(scope_turn_id) REFERENCES turns (id),
	CONSTRAINT uq_evaluations_hash UNIQUE (hash)
);
INSERT INTO "evaluations" VALUES(1,1,'turn',1,'{"name": "teacher-forced", "version": 1}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0}','{"edit_success": 1.0, "generalization": 0.41666666666666663, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": 1.0}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.63923030013393145054e-02,'2026-11-25 10:33:26.884858','3d30928e1ed6955c87aaffb3cac94870da2cb8bf5f5d886c3fd1ffe704dbeffd');
INSERT INTO "evaluations" VALUES(2,2,'turn',2,'{"name": "teacher-forced", "version": 1}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.5}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.29122879989154171198e-02,'2026-11-25 10:33:26.931097','be8a15be2850064a53a83cc7b4649fdd3015c6df24d00cc4fcc59f4c4ea097f0');
INSERT INTO "evaluations" VALUES(3,3,'in_force',NULL,'{"name": "teacher-forced", "version": 1}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.5}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.01251849991967901587e-02,'2026-11-25 10:33:27.008274','9f019f07e1828e7e524113e9615cd6c34e73dd5c6ce4ce999fddb2d670bd8fb9');
CREATE TABLE ledger_schema (version_num VARCHAR(32) NOT NULL, CONSTRAINT ledger_schema_pkc PRIMARY KEY (version_num));
INSERT INTO "ledger_schema" VALUES('0001');
CREATE TABLE outcomes (
	evaluation_id INTEGER NOT NULL,
	edit_id INTEGER NOT NULL,
	base JSON NOT NULL,
	state JSON NOT NULL,
	CONSTRAINT pk_outcomes PRIMARY KEY (evaluation_id, edit_id),
	CONSTRAINT fk_outcomes_evaluation_id_evaluations FOREIGN KEY(evaluation_id) REFERENCES evaluations (id),
	CONSTRAINT fk_outcomes_edit_id_edits FOREIGN KEY(edit_id) REFERENCES edits (id)
);
INSERT INTO "outcomes" VALUES(1,1,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}','{"edit_success": 1.0, "generalization": 0.5, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": 1.0, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(1,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}','{"edit_success": 1.0, "generalization": 0.3333333333333333, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": 1.0, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(2,3,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.0, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(2,4,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(3,3,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.0, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(3,4,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "locality_tokens": 3.0}');
CREATE TABLE ref_moves (
	id INTEGER NOT NULL,
	ref VARCHAR(200) NOT NULL,
	from_turn_id INTEGER,
	to_turn_id INTEGER,
	action VARCHAR(32) NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_ref_moves PRIMARY KEY (id),
	CONSTRAINT fk_ref_moves_from_turn_id_turns FOREIGN KEY(from_turn_id) REFERENCES turns (id),
	CONSTRAINT fk_ref_moves_to_turn_id_turns FOREIGN KEY(to_turn_id) REFERENCES turns (id)
);
INSERT INTO "ref_moves" VALUES(1,'main',NULL,NULL,'init','2026-11-25 10:33:26.741493');
INSERT INTO "ref_moves" VALUES(2,'main',NULL,1,'edit','2026-11-25 10:33:26.884858');
INSERT INTO "ref_moves" VALUES(3,'main',1,2,'edit','2026-11-25 10:33:26.931097');
INSERT INTO "ref_moves" VALUES(4,'main',2,3,'rollback','2026-11-25 10:33:26.958997');
CREATE TABLE refs (
	name VARCHAR(200) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	turn_id INTEGER,
	CONSTRAINT pk_refs PRIMARY KEY (name),
	CONSTRAINT ck_refs_kind CHECK (kind IN ('branch', 'tag')),
	CONSTRAINT ck_refs_tag_has_turn CHECK (kind = 'branch' OR turn_id IS NOT NULL),
	CONSTRAINT fk_refs_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "refs" VALUES('main','branch',3);
CREATE TABLE skipped_rows (
	turn_id INTEGER NOT NULL,
	"row" BIGINT NOT NULL,
	reason TEXT NOT NULL,
	CONSTRAINT pk_skipped_rows PRIMARY KEY (turn_id, "row"),
	CONSTRAINT fk_skipped_rows_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "skipped_rows" VALUES(1,1,'empty target');
CREATE TABLE turns (
	id INTEGER NOT NULL,
	branch VARCHAR(200) NOT NULL,
	number INTEGER NOT NULL,
	parent_id INTEGER,
	kind VARCHAR(16) NOT NULL,
	method VARCHAR(32),
	hyperparameters JSON NOT NULL,
	seed BIGINT NOT NULL,
	message TEXT NOT NULL,
	author TEXT NOT NULL,
	dataset_id INTEGER,
	first_row BIGINT,
	last_row BIGINT,
	edits INTEGER NOT NULL,
	edits_digest VARCHAR(64) NOT NULL,
	skipped INTEGER NOT NULL,
	patch_digest VARCHAR(64),
	editor_state_digest VARCHAR(64),
	tensors JSON NOT NULL,
	environment JSON NOT NULL,
	seconds JSON NOT NULL,
	peak_memory BIGINT,
	notes JSON NOT NULL,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_turns PRIMARY KEY (id),
	CONSTRAINT uq_turns_branch_number UNIQUE (branch, number),
	CONSTRAINT ck_turns_number CHECK (number > 0),
	CONSTRAINT ck_turns_kind CHECK (kind IN ('edit', 'rollback')),
	CONSTRAINT ck_turns_parent CHECK ((number = 1) = (parent_id IS NULL)),
	CONSTRAINT ck_turns_edit_has_patch CHECK (kind <> 'edit' OR (patch_digest IS NOT NULL AND method IS NOT NULL AND edits > 0)),
	CONSTRAINT ck_turns_counts CHECK (edits >= 0 AND skipped >= 0),
	CONSTRAINT fk_turns_parent_id_turns FOREIGN KEY(parent_id) REFERENCES turns (id),
	CONSTRAINT fk_turns_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id),
	CONSTRAINT fk_turns_patch_digest_blobs FOREIGN KEY(patch_digest) REFERENCES blobs (digest),
	CONSTRAINT fk_turns_editor_state_digest_blobs FOREIGN KEY(editor_state_digest) REFERENCES blobs (digest),
	CONSTRAINT uq_turns_hash UNIQUE (hash)
);
INSERT INTO "turns" VALUES(1,'main',1,NULL,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 1.7, "ridge": 1.0, "batch_size": 10, "tokens": "target", "variance": "published"}',0,'first ☃','someone',1,0,2,2,'4b45b93c20f34646ff7019055371e01ab564391afc35ec2664c9275662d24c7b',1,'9e2565741bdb46815f0c22ce53a0f73f6d086bae7f727fde15e18f11fa7b6163','85f8c6345238c3c060578dcd0237cab65aa89c81f6ca9926401e7eb2a6c86cd3','{"model.layers.1.mlp.down_proj.weight": "cac81903747dffbfb84809fdcd7592b4ecee5d9e568efc5201d0a1138d0dcd71"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.049160815000504954, "solve": 0.005489733001013519, "store": 0.0016744599997764453, "apply": 0.001436917002138216, "evaluate": 0.016392303001339315, "total": 0.07427733000076842}',495620096,'["nobody has tuned llama of width 32: editing 1 of 3 feed-forward output matrices (model.layers.2.mlp.down_proj to model.layers.2.mlp.down_proj) at learning rate 1.7. Try a few rates with --set learning_rate=\u2026 and layers with --modules"]','2026-11-25 10:33:26.884858','d4f0ff06fd4e99486314c422c0b17acf3c9eba63c4bbfe92001d869a4de813ec');
INSERT INTO "turns" VALUES(2,'main',2,1,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 1.7, "ridge": 1.0, "batch_size": 10, "tokens": "target", "variance": "published"}',0,'first ☃','someone',1,3,4,2,'3435effebebcda6ec13ec07afc6176af249de5e24db71a240dcfb7af2c5fb0cf',0,'db0cbce7c4a2534f82733ecf612f4e8ae58f9de61cc7cd9a800d526e7f7d412d','c7ff6e74e64d8b32a1b301da45b616dfb2752c32c9a04c38f97e63962b3e1148','{"model.layers.1.mlp.down_proj.weight": "48353032bcd87c887253c9178b07056e0c3563f478744d469fe8372fe19162cc"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.010160115998587571, "solve": 0.00037287500163074583, "store": 0.0017683789992588572, "apply": 0.0010598459994071163, "evaluate": 0.012912287998915417, "total": 0.026353002998803277}',506761216,'["nobody has tuned llama of width 32: editing 1 of 3 feed-forward output matrices (model.layers.2.mlp.down_proj to model.layers.2.mlp.down_proj) at learning rate 1.7. Try a few rates with --set learning_rate=\u2026 and layers with --modules"]','2026-11-25 10:33:26.931097','37fa7b79cb4c674025eeaa3751a19a0e0c47c10b65f8bdadd91e9906f17c70da');
INSERT INTO "turns" VALUES(3,'main',3,2,'rollback',NULL,'{}',0,'wrong','someone',NULL,NULL,NULL,0,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',0,NULL,NULL,'{"model.layers.1.mlp.down_proj.weight": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu"}','{"rebuild": 0.012031569000100717, "total": 0.015168653000728227}',NULL,'[]','2026-11-25 10:33:26.958997','9f4317e20b3e2cc2834b05fbbbf751def29819c2fa64ed7ca4105b3898ed5294');
CREATE TABLE undoes (
	turn_id INTEGER NOT NULL,
	undone_id INTEGER NOT NULL,
	CONSTRAINT pk_undoes PRIMARY KEY (turn_id, undone_id),
	CONSTRAINT ck_undoes_earlier CHECK (undone_id < turn_id),
	CONSTRAINT fk_undoes_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT fk_undoes_undone_id_turns FOREIGN KEY(undone_id) REFERENCES turns (id)
);
INSERT INTO "undoes" VALUES(3,1);
CREATE INDEX ix_datasets_sha256 ON datasets (sha256);
CREATE INDEX ix_turns_editor_state_digest ON turns (editor_state_digest);
CREATE INDEX ix_turns_parent_id ON turns (parent_id);
CREATE INDEX ix_turns_patch_digest ON turns (patch_digest);
CREATE INDEX ix_turns_dataset_id ON turns (dataset_id);
CREATE INDEX ix_edits_prompt_key ON edits (prompt_key);
CREATE INDEX ix_ref_moves_ref ON ref_moves (ref);
CREATE INDEX ix_evaluations_turn_id ON evaluations (turn_id);
COMMIT;
