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
INSERT INTO "bases" VALUES(1,'b45f54d3-39e3-4662-933c-fc04ee3835bb','f30771d2feb5fa879c46dc038a47c207ce46cb57806aadc2ae726930f35d5956','/srv/ledgers/tiny-llama',NULL,'LlamaForCausalLM',NULL,'{"lm_head.weight": ["BF16", [400, 32], "3fe8dee3d5436f63ae7a388b81d9026de53ec5824badc946a8c6434db6cefe44"], "model.embed_tokens.weight": ["BF16", [400, 32], "1212ab2f9105ea3d9908d60399968097f269f4ea0e49f1b1f82f48912373fa48"], "model.layers.0.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.0.mlp.down_proj.weight": ["BF16", [32, 48], "cc46305a970259459c45d4a71b2bc471ed077e848374531a683316b6fa222b67"], "model.layers.0.mlp.gate_proj.weight": ["BF16", [48, 32], "7e4ab127e25ae4d30ba7cd7600672f8e1a371d8840e2a75426dff6bb91919c5e"], "model.layers.0.mlp.up_proj.weight": ["BF16", [48, 32], "57652d55e782ecc6025c93f131ba84f16a880b5144b24b641b15d2cb812f8d4f"], "model.layers.0.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.0.self_attn.k_proj.weight": ["BF16", [16, 32], "498a7159d4f7e7ecf3529377ffb6371f8c8612173e908c15f01cc68570e519df"], "model.layers.0.self_attn.o_proj.weight": ["BF16", [32, 32], "c6eb0549f69079bdf197b5f6eab964f5b1dc9f5849f6f042442df5a446cb47ff"], "model.layers.0.self_attn.q_proj.weight": ["BF16", [32, 32], "d5fa9ce9d6fcd08e3b4a4eb5b4e54d4cf427c09d8f784ae3a0cb84f3ef8b0f07"], "model.layers.0.self_attn.v_proj.weight": ["BF16", [16, 32], "00bb74f0d1ed4c6c03387defe1a87380d965a5a0653a5d016327be53b0578265"], "model.layers.1.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.1.mlp.down_proj.weight": ["BF16", [32, 48], "a1fa9ab4ce15100554f23e352ec8dc64367583526c8ec493e9ad2eccbf852919"], "model.layers.1.mlp.gate_proj.weight": ["BF16", [48, 32], "09f4deeb93685a24c5c53fc866bae0993ecc68fcb56fc7a5f2e3188281f96350"], "model.layers.1.mlp.up_proj.weight": ["BF16", [48, 32], "f4bb218c0d86c9e7d5c1cbac86903caae3be5673a6b1b0e6139e6dd1becdd314"], "model.layers.1.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.1.self_attn.k_proj.weight": ["BF16", [16, 32], "2ad1f436a401543dcaaa6d26e8e74a5888c673a4d1fded3efd86adeed4c7b268"], "model.layers.1.self_attn.o_proj.weight": ["BF16", [32, 32], "87d69b8ae0ab78e394c7955ac297cb5fbfe68129b35bbe6e66e024927b4f7855"], "model.layers.1.self_attn.q_proj.weight": ["BF16", [32, 32], "3cae14c1bfbdb449dd18bb575ec79c310413d71c6878477185dc65031e1e6444"], "model.layers.1.self_attn.v_proj.weight": ["BF16", [16, 32], "8d05412b3c87d1d2410a13e63993063d47e9a1d169ee864efe798b0a61f66910"], "model.layers.2.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.2.mlp.down_proj.weight": ["BF16", [32, 48], "868236caef8e81f512f41bba5beef73a9579de4ecc88c850e27b11430f92ed33"], "model.layers.2.mlp.gate_proj.weight": ["BF16", [48, 32], "48213c89ac19993522a9a278371909f9440410893eabb7ed2d9a1d97bd75379e"], "model.layers.2.mlp.up_proj.weight": ["BF16", [48, 32], "f0e2728d5b4611a84a9fcfb987bf6eb6007e6f519c715563165559fa6651bb11"], "model.layers.2.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.2.self_attn.k_proj.weight": ["BF16", [16, 32], "7be889f451815872bd422b7217d786f3827266c6d7bc48a48cf30a35720100fc"], "model.layers.2.self_attn.o_proj.weight": ["BF16", [32, 32], "417c6cc361df361f857cd3fed09068b1f5e1328938d8d47ed5f7bee5decac1f4"], "model.layers.2.self_attn.q_proj.weight": ["BF16", [32, 32], "39d50f41f752038cf248ee48580986d00a6b1fea6984f8471b7dc73682685a75"], "model.layers.2.self_attn.v_proj.weight": ["BF16", [16, 32], "f611c5463af32bd30005988b1248170058cf397b00b9231b68d0049abd8bc98a"], "model.norm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"]}','2026-11-25 10:33:34.595746');
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
INSERT INTO "blobs" VALUES('9e2565741bdb46815f0c22ce53a0f73f6d086bae7f727fde15e18f11fa7b6163','patch',1800,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 5}}','2026-11-25 10:33:34.694577');
INSERT INTO "blobs" VALUES('85f8c6345238c3c060578dcd0237cab65aa89c81f6ca9926401e7eb2a6c86cd3','editor-state',2288,'{}','2026-11-25 10:33:34.694577');
INSERT INTO "blobs" VALUES('db0cbce7c4a2534f82733ecf612f4e8ae58f9de61cc7cd9a800d526e7f7d412d','patch',2544,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 8}}','2026-11-25 10:33:34.740360');
INSERT INTO "blobs" VALUES('c7ff6e74e64d8b32a1b301da45b616dfb2752c32c9a04c38f97e63962b3e1148','editor-state',2288,'{}','2026-11-25 10:33:34.740360');
INSERT INTO "blobs" VALUES('8df403dfedd7a3376680812791b86faa633c73a4470eb3112313efc590934e13','patch',2208,'{"model.layers.1.mlp.down_proj.weight": {"kind": "side-memory", "shape": [32, 48], "transposed": false, "rank": null, "routing": {"form": "paper", "activation": null, "threshold": 2.198467428445816, "main": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49", "edits": {"n": 2, "min": 2.2006680965423584, "mean": 2.35699462890625, "max": 2.5133211612701416}, "others": {"n": 42, "min": 1.2899223566055298, "mean": 1.7720928646269298, "max": 2.4399867057800293}}}}','2026-11-25 10:33:34.951492');
INSERT INTO "blobs" VALUES('d534c0ed8714862c4b504d7b53a573bd7a62707b5c0f84c505e75541a753e6ce','editor-state',276,'{}','2026-11-25 10:33:34.951492');
INSERT INTO "blobs" VALUES('0915c197ff2c070e989da4362434be6b395cb14d2d11e33c612905b18fd764f3','patch',2200,'{"model.layers.1.mlp.down_proj.weight": {"kind": "side-memory", "shape": [32, 48], "transposed": false, "rank": null, "routing": {"form": "paper", "activation": null, "threshold": 1.880518469452858, "main": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49", "edits": {"n": 2, "min": 1.8824008703231812, "mean": 1.8862494230270386, "max": 1.890097975730896}, "others": {"n": 43, "min": 0.948654055595398, "mean": 1.4969427446986354, "max": 2.218344211578369}}}}','2026-11-25 10:33:34.990291');
INSERT INTO "blobs" VALUES('a3ce2a3610e7c7ebc761f1dc367357bbd2ee6c5bdb2b57e07dac84ae55cc702f','patch',2494,'{"model.layers.1.mlp.down_proj.weight": {"kind": "side-memory", "shape": [32, 48], "transposed": false, "rank": null, "routing": {"form": "paper", "activation": null, "threshold": 2.7192933654785154, "main": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49", "edits": {"n": 4, "min": 2.722015380859375, "mean": 2.8080756068229675, "max": 2.957033634185791}, "others": {"n": 41, "min": 1.5300216674804688, "mean": 2.187514808119797, "max": 3.0040807723999023}}}}','2026-11-25 10:33:35.264968');
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
INSERT INTO "datasets" VALUES(1,'918aa9bf1a7b0393f0cd4ad4321cbda5e8856d47c5caf11e7815f1f6ea4e754d','/srv/ledgers/facts.json',NULL,'e404d5ba8b9f746e10bd83afda8703ab3f13bb170abc306a6c739f39846dab49','json','canonical','{}',NULL,'2026-11-25 10:33:34.694577');
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
INSERT INTO "edits" VALUES(5,4,0,5,'The capital of London is','1984','London','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of London is"]}',-4019931548865683179,'27fdc13790a16cce4765256da1b9506c1d33bd27fedd0e2e489efd1ac9554c11');
INSERT INTO "edits" VALUES(6,4,1,6,'The official language of France is','Toyota Camry','France','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of France is"]}',-5034170908320945017,'3773202816e833900d0e5e0c14843578eae0412b0040f8a14b964dae0523f2ef');
INSERT INTO "edits" VALUES(7,5,0,7,'The official language of Japan is','Rome','Japan','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Japan is"]}',-6278541342369512569,'00cb68ba983554fd11036b2331fc4addb1a5996bad254f65e0e1bb6202a1213c');
INSERT INTO "edits" VALUES(8,5,1,8,'The official language of Italy is','the Danube','Italy','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Italy is"]}',-3020568733307417225,'b566da3a36c83ebd1c43658ee9e6304be5b8feb32079d1eeadc14b287d824231');
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
INSERT INTO "evaluations" VALUES(1,1,'turn',1,'{"name": "teacher-forced", "version": 2}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 585.0472994820093, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 1.0, "generalization": 0.41666666666666663, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": 1.0, "perplexity": 18.288520281799894, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.38448549987515434622e-02,'2026-11-25 10:33:34.694577','a758630ad323345bb9555f2c5701362c233a93fd4da9fbc5f31e139608c0aafa');
INSERT INTO "evaluations" VALUES(2,2,'turn',2,'{"name": "teacher-forced", "version": 2}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.5, "perplexity": 890.4625239334547, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 759.0550800255734, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.36021750004147179424e-02,'2026-11-25 10:33:34.740360','7b037ec62e81c4b6ea43540adc82882530232b52f77ddff0ce098ecd4fbcf6c2');
INSERT INTO "evaluations" VALUES(3,3,'in_force',NULL,'{"name": "teacher-forced", "version": 2}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.5, "perplexity": 890.4625239334547, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 554.4807142433481, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.11303890007548034191e-02,'2026-11-25 10:33:34.819610','47ae0381dba5c9c5b3b5078713820557d429d9f65d31ad527f2e822df6bb59c5');
CREATE TABLE ledger_schema (version_num VARCHAR(32) NOT NULL, CONSTRAINT ledger_schema_pkc PRIMARY KEY (version_num));
INSERT INTO "ledger_schema" VALUES('0002');
CREATE TABLE outcomes (
	evaluation_id INTEGER NOT NULL,
	edit_id INTEGER NOT NULL,
	base JSON NOT NULL,
	state JSON NOT NULL,
	CONSTRAINT pk_outcomes PRIMARY KEY (evaluation_id, edit_id),
	CONSTRAINT fk_outcomes_evaluation_id_evaluations FOREIGN KEY(evaluation_id) REFERENCES evaluations (id),
	CONSTRAINT fk_outcomes_edit_id_edits FOREIGN KEY(edit_id) REFERENCES edits (id)
);
INSERT INTO "outcomes" VALUES(1,1,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 794.5109321002112, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 1.0, "generalization": 0.5, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": 1.0, "perplexity": 22.534470149544454, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(1,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 375.58366686380725, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 1.0, "generalization": 0.3333333333333333, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": 1.0, "perplexity": 14.042570414055335, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(2,3,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.0, "perplexity": 1119.8762240993476, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 399.5466689959792, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(2,4,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 661.0488237675618, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 1118.5634910551676, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(3,3,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.0, "perplexity": 1119.8762240993476, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 341.71167572980653, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(3,4,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 661.0488237675618, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 767.2497527568897, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
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
INSERT INTO "ref_moves" VALUES(1,'main',NULL,NULL,'init','2026-11-25 10:33:34.595746');
INSERT INTO "ref_moves" VALUES(2,'main',NULL,1,'edit','2026-11-25 10:33:34.694577');
INSERT INTO "ref_moves" VALUES(3,'main',1,2,'edit','2026-11-25 10:33:34.740360');
INSERT INTO "ref_moves" VALUES(4,'main',2,3,'rollback','2026-11-25 10:33:34.770018');
INSERT INTO "ref_moves" VALUES(5,'main',3,4,'edit','2026-11-25 10:33:34.951492');
INSERT INTO "ref_moves" VALUES(6,'main',4,5,'edit','2026-11-25 10:33:34.990291');
INSERT INTO "ref_moves" VALUES(7,'main',5,6,'merge','2026-11-25 10:33:35.264968');
CREATE TABLE refs (
	name VARCHAR(200) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	turn_id INTEGER,
	CONSTRAINT pk_refs PRIMARY KEY (name),
	CONSTRAINT ck_refs_kind CHECK (kind IN ('branch', 'tag')),
	CONSTRAINT ck_refs_tag_has_turn CHECK (kind = 'branch' OR turn_id IS NOT NULL),
	CONSTRAINT fk_refs_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "refs" VALUES('main','branch',6);
CREATE TABLE replacements (
	turn_id INTEGER NOT NULL,
	replaced_id INTEGER NOT NULL,
	CONSTRAINT pk_replacements PRIMARY KEY (turn_id, replaced_id),
	CONSTRAINT ck_replacements_earlier CHECK (replaced_id < turn_id),
	CONSTRAINT fk_replacements_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT fk_replacements_replaced_id_turns FOREIGN KEY(replaced_id) REFERENCES turns (id)
);
INSERT INTO "replacements" VALUES(6,4);
INSERT INTO "replacements" VALUES(6,5);
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
	figures JSON NOT NULL,
	CONSTRAINT pk_turns PRIMARY KEY (id),
	CONSTRAINT uq_turns_branch_number UNIQUE (branch, number),
	CONSTRAINT ck_turns_number CHECK (number > 0),
	CONSTRAINT ck_turns_kind CHECK (kind IN ('edit', 'rollback', 'merge')),
	CONSTRAINT ck_turns_parent CHECK ((number = 1) = (parent_id IS NULL)),
	CONSTRAINT ck_turns_edit_has_patch CHECK (kind <> 'edit' OR (patch_digest IS NOT NULL AND method IS NOT NULL AND edits > 0)),
	CONSTRAINT ck_turns_merge_has_patch CHECK (kind <> 'merge' OR (patch_digest IS NOT NULL AND method IS NOT NULL)),
	CONSTRAINT ck_turns_counts CHECK (edits >= 0 AND skipped >= 0),
	CONSTRAINT fk_turns_parent_id_turns FOREIGN KEY(parent_id) REFERENCES turns (id),
	CONSTRAINT fk_turns_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id),
	CONSTRAINT fk_turns_patch_digest_blobs FOREIGN KEY(patch_digest) REFERENCES blobs (digest),
	CONSTRAINT fk_turns_editor_state_digest_blobs FOREIGN KEY(editor_state_digest) REFERENCES blobs (digest),
	CONSTRAINT uq_turns_hash UNIQUE (hash)
);
INSERT INTO "turns" VALUES(1,'main',1,NULL,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 1.7, "ridge": 1.0, "batch_size": 10, "tokens": "target", "variance": "published"}',0,'first ☃','someone',1,0,2,2,'4b45b93c20f34646ff7019055371e01ab564391afc35ec2664c9275662d24c7b',1,'9e2565741bdb46815f0c22ce53a0f73f6d086bae7f727fde15e18f11fa7b6163','85f8c6345238c3c060578dcd0237cab65aa89c81f6ca9926401e7eb2a6c86cd3','{"model.layers.1.mlp.down_proj.weight": "cac81903747dffbfb84809fdcd7592b4ecee5d9e568efc5201d0a1138d0dcd71"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.012931096000102116, "solve": 0.0005869929991604295, "store": 0.0019447619997663423, "apply": 0.0013755149993812665, "evaluate": 0.013844854998751543, "total": 0.03078783699675114}',495292416,'["nobody has tuned llama of width 32: editing 1 of 3 feed-forward output matrices (model.layers.2.mlp.down_proj to model.layers.2.mlp.down_proj) at learning rate 1.7. Try a few rates with --set learning_rate=\u2026 and layers with --modules"]','2026-11-25 10:33:34.694577','2d3c161796d724a74f6c639acc76591f4ba5661059461b5158cf00c3cbc489fb','{"loss_before": 6.228712558746338, "tokens": 5.0}');
INSERT INTO "turns" VALUES(2,'main',2,1,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 1.7, "ridge": 1.0, "batch_size": 10, "tokens": "target", "variance": "published"}',0,'first ☃','someone',1,3,4,2,'3435effebebcda6ec13ec07afc6176af249de5e24db71a240dcfb7af2c5fb0cf',0,'db0cbce7c4a2534f82733ecf612f4e8ae58f9de61cc7cd9a800d526e7f7d412d','c7ff6e74e64d8b32a1b301da45b616dfb2752c32c9a04c38f97e63962b3e1148','{"model.layers.1.mlp.down_proj.weight": "48353032bcd87c887253c9178b07056e0c3563f478744d469fe8372fe19162cc"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.009715414998936467, "solve": 0.0003823790029855445, "store": 0.0017427509992558043, "apply": 0.0011331949972372968, "evaluate": 0.013602175000414718, "total": 0.026671887000702554}',506040320,'["nobody has tuned llama of width 32: editing 1 of 3 feed-forward output matrices (model.layers.2.mlp.down_proj to model.layers.2.mlp.down_proj) at learning rate 1.7. Try a few rates with --set learning_rate=\u2026 and layers with --modules"]','2026-11-25 10:33:34.740360','dd114b8d7afc3850c7fee33e6859a1bd58152ee217afaf3a5f5e568d098be7d9','{"loss_before": 6.758931636810303, "tokens": 8.0}');
INSERT INTO "turns" VALUES(3,'main',3,2,'rollback',NULL,'{}',0,'wrong','someone',NULL,NULL,NULL,0,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',0,NULL,NULL,'{"model.layers.1.mlp.down_proj.weight": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu"}','{"rebuild": 0.011767197000153828, "total": 0.014878842997859465}',NULL,'[]','2026-11-25 10:33:34.770018','72e009806fea96348d5d98f2faf10b1b83aab336fe8d80e48747e8824b2be2b2','{}');
INSERT INTO "turns" VALUES(4,'main',4,3,'edit','wise','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 0.0886, "alpha": 0.329, "beta": 1.27, "gamma": 0.633, "activation_weight": 0.05, "iterations": 3, "batch": 100, "mask_ratio": 0.2, "threshold": 0.5, "form": "paper", "contexts": ["I q tho. "], "out_of_scope": "rows", "pool": null}',0,'','someone',1,5,6,2,'d7afaa10716d3fc063ba95e2149abede7478c4de5bba9bfc1ebf96b6c6e8b4ed',0,'8df403dfedd7a3376680812791b86faa633c73a4470eb3112313efc590934e13','d534c0ed8714862c4b504d7b53a573bd7a62707b5c0f84c505e75541a753e6ce','{"model.layers.1.mlp.down_proj.weight": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"train": 0.05342989199925796, "threshold": 0.0016063189978012815, "store": 0.0018311029998585582, "apply": 0.0012226179969729856, "evaluate": 0.0, "total": 0.05820014600249124}',527478784,'["an unrelated prompt activates the memory as strongly as an edit (2.44 against 2.2): some prompts will take the wrong way. Raise beta and gamma, or add locality prompts"]','2026-11-25 10:33:34.951492','2ac984f66a01cd403ba17f21f7b3819567d39a731751ed091d1c233c2d3104ec','{"losses": [5.408512, 6.334644], "activation_loss": 1.877542, "iterations": 3, "threshold": 2.198467428445816}');
INSERT INTO "turns" VALUES(5,'main',5,4,'edit','wise','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 0.0886, "alpha": 0.329, "beta": 1.27, "gamma": 0.633, "activation_weight": 0.05, "iterations": 3, "batch": 100, "mask_ratio": 0.2, "threshold": 0.5, "form": "paper", "contexts": ["I q tho. "], "out_of_scope": "rows", "pool": null}',0,'','someone',1,7,8,2,'6fded4a9f5c682685ab7c75782e450126d93898775340d99b3d013a78c2562b6',0,'0915c197ff2c070e989da4362434be6b395cb14d2d11e33c612905b18fd764f3','d534c0ed8714862c4b504d7b53a573bd7a62707b5c0f84c505e75541a753e6ce','{"model.layers.1.mlp.down_proj.weight": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"train": 0.023478588998841587, "threshold": 0.0016628119992674328, "store": 0.0015066199994180351, "apply": 0.0013471829988702666, "evaluate": 0.0, "total": 0.02807741699871258}',532852736,'["an unrelated prompt activates the memory as strongly as an edit (2.22 against 1.88): some prompts will take the wrong way. Raise beta and gamma, or add locality prompts"]','2026-11-25 10:33:34.990291','d4f48f5214a0e14746bc9b916b6f5f1e19efcdb53e3da312342eafa25d3050bf','{"losses": [7.312559, 5.883536], "activation_loss": 1.537495, "iterations": 3, "threshold": 1.880518469452858}');
INSERT INTO "turns" VALUES(6,'main',6,5,'merge','ties','{"method": "ties", "density": 0.53, "weights": null, "seed": 0, "merges": [4, 5], "threshold": 0.5}',0,'merge the shards of turns 4 to 5','someone',NULL,NULL,NULL,0,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',0,'a3ce2a3610e7c7ebc761f1dc367357bbd2ee6c5bdb2b57e07dac84ae55cc702f',NULL,'{"model.layers.1.mlp.down_proj.weight": "c6a45a4d5303b964009804cdc8569f5040551bb71ee03c3f7964e096cba9ec49"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"total": 0.25809197899798164}',547176448,'["an unrelated prompt activates the merged memory as strongly as an edit (3 against 2.72): some prompts will take the wrong way"]','2026-11-25 10:33:35.264968','3f434e4393ba8ab4f3228f672c911c10b541a9d7a7a710f21ef27675e5fb61e6','{}');
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
CREATE INDEX ix_turns_parent_id ON turns (parent_id);
CREATE INDEX ix_turns_patch_digest ON turns (patch_digest);
CREATE INDEX ix_turns_dataset_id ON turns (dataset_id);
CREATE INDEX ix_turns_editor_state_digest ON turns (editor_state_digest);
CREATE INDEX ix_edits_prompt_key ON edits (prompt_key);
CREATE INDEX ix_ref_moves_ref ON ref_moves (ref);
CREATE INDEX ix_evaluations_turn_id ON evaluations (turn_id);
COMMIT;
